"""The script of `completion`, in the shell that it is for."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from diffsmooth_trt.cli import main


def test_bash_completes_commands_options_choices_and_files(tmp_path, capsys):
    pytest.importorskip("shtab", reason="completion scripts are made by shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out, encoding="utf-8")
    (tmp_path / "denoiser.onnx").write_text("")

    def completed(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in ("diffsmooth-trt", *words))
        program = f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE={line!r}; COMP_TYPE=9; "
        program += '_shtab_diffsmooth_trt diffsmooth-trt; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run([bash, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        return {word.strip() for word in done.stdout.split()}

    assert {"certify"} == completed("certi")
    assert {"--radius", "--ray"} <= completed("certify", "--ra")
    assert {"--shard", "--skip", "--sigma", "--sift", "--sift-margin"} <= completed("certify", "--s")  # rare ones too
    assert {"diffsmooth"} == completed("certify", "--method", "diffs")
    assert "denoiser.onnx" in completed("certify", "--engine", "den")
    assert {"--calibration-data"} == completed("export", "denoiser", "--cal")


def test_without_its_library_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert 'pip install "diffsmooth-trt[completion]"' in capsys.readouterr().err
    assert main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
