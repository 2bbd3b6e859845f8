"""All tests run offline. Which file tests which module: test_tests.py."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
