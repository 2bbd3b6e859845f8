"""All tests run offline."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
