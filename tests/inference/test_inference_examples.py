"""The examples of local inference: what they say, and that one line changes where the tokens come from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
JOKE = "Why did the token cross the stream? To be next!"
ASSISTANT_LINE = "provider: Provider = LlamaCppProvider(options=LlamaCppOptions(model_path=model))"


def run(program: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "RUNSTREAM_URL": f"sqlite:{folder}/events.db"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_blazen_s_examples_run_on_both_engines(tmp_path: Path) -> None:
    assert run(EXAMPLES / "blazen_local_inference.py", tmp_path).splitlines() == [
        *(JOKE, "[finish: stop]", JOKE),  # mistral.rs
        *("Hello there, I am a tiny model.", JOKE),  # llama.cpp
    ]


@pytest.mark.parametrize("source", ["llama.cpp", "mistral.rs", "server"])
def test_one_line_changes_where_a_workflow_s_tokens_come_from(
    source: str, tmp_path: Path, llama_server: str
) -> None:
    program = (EXAMPLES / "local_assistant.py").read_text()
    assert program.count(ASSISTANT_LINE) == 1
    line = {
        "llama.cpp": ASSISTANT_LINE,
        "mistral.rs": "provider: Provider = MistralRsProvider(options=MistralRsOptions(model))",
        "server": f"provider: Provider = OpenAIProvider(base_url={llama_server!r})",
    }[source]
    copy = tmp_path / "assistant.py"
    imports = (
        "from runstream.inference import MistralRsOptions, MistralRsProvider, OpenAIProvider\n"
    )
    copy.write_text(imports + program.replace(ASSISTANT_LINE, line))
    lines = run(copy, tmp_path).splitlines()
    assert [line for line in lines if line.startswith("[reasoning]")] == [
        f"[reasoning] {text!r}" for text in ("Let", " us", " reason", " slowly", ".")
    ]
    assert "The answer follows from that..." in lines
    assert lines[-1] == "It is sunny in Paris today ☀."
    (call,) = [line for line in lines if line.startswith("[tool_calls]")]
    assert "get_weather" in call
