"""Running a command: exit codes and messages of mistakes, interruptions and shortages."""

import errno
import logging
import os
import threading

import pytest
import torch
from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from diffguard.errors import UserError
from diffguard_cli.exit_codes import run
from diffguard_cli.interrupts import interruptible
from tests.helpers.commands import command


@pytest.fixture(autouse=True)
def _first_process(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def raising(error):
    def main(argv):
        raise error

    return main


def code_of(main, argv=()):
    with pytest.raises(SystemExit) as caught:
        run(main, argv)
    return caught.value.code


def test_the_exit_code_comes_from_main():
    seen = []
    assert code_of(lambda argv: seen.append(argv) or 0, ["--a", "b"]) == 0
    assert seen == [["--a", "b"]]
    assert code_of(lambda argv: 3) == 3


def test_arguments_default_to_the_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--seed", "1"])
    seen = []
    with pytest.raises(SystemExit):
        run(lambda argv: seen.append(argv) or 0)
    assert seen == [["--seed", "1"]]


@pytest.mark.parametrize(
    "error",
    [
        UserError("something\n- is wrong"),
        MisconfigurationException("something\nis wrong"),
        ArgumentError(None, "something is wrong"),
    ],
)
def test_a_mistake_gives_one_line_and_code_2(error, capsys):
    assert code_of(raising(error)) == 2
    assert capsys.readouterr() == ("", "error: something is wrong\n")


def test_a_file_that_the_system_refuses_is_named(capsys):
    assert code_of(raising(OSError(errno.EIO, os.strerror(errno.EIO), b"caf\xe9"))) == 2
    assert capsys.readouterr().err == "error: caf\\xe9: Input/output error\n"


def test_a_message_of_any_length_is_shortened(capsys):
    assert code_of(raising(UserError("a" * 100_000))) == 2
    assert len(capsys.readouterr().err) < 2100


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried …")]
)
def test_out_of_memory_gives_one_line_with_advice(error, capsys):
    assert code_of(raising(error)) == 2
    assert capsys.readouterr().err.startswith("error: out of memory: use a smaller --data.")
    with pytest.raises(type(error)):
        run(raising(error), ["--debug"])


def full_disk(_):
    # As torch's file writer does.
    raise RuntimeError("unexpected pos 64 vs 0") from OSError(
        errno.ENOSPC, os.strerror(errno.ENOSPC)
    )


def test_a_full_disk_gives_one_line_from_any_thread(capsys):
    assert code_of(full_disk) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: No space left on device: free some space and start again")
    assert output.count("\n") == 1
    thread = threading.Thread(target=full_disk, args=([],))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_ctrl_c_during_an_import_gives_one_line(script):
    code = """if True:
        import os, runpy, signal, sys
        class Interrupting:
            def find_spec(self, name, *_):
                if name == "jsonargparse":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupting())
        runpy.run_path(sys.argv[1], run_name="__main__")
    """
    ended = command("-c", code, script)
    assert ended.returncode == 130
    assert (ended.stdout, ended.stderr) == ("", "interrupted: finished work is kept\n")


def test_an_interruption_gives_code_130(capsys):
    assert code_of(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted: finished work is kept\n"


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(UserError, match="wrong"):
        run(raising(UserError("wrong")), ["--debug"])
    assert capsys.readouterr().err == ""


def test_a_defect_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()), [])


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({}, 1),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 1),
        ({"RANK": "1", "LOCAL_RANK": "1"}, 0),
        ({"RANK": "2", "LOCAL_RANK": "0"}, 1),  # the first process of another machine
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, 0),
        ({"LOCAL_RANK": "1"}, 1),  # started by the first process, which has made no mistake
    ],
)
def test_processes_of_one_machine_report_a_mistake_once(monkeypatch, capsys, variables, lines):
    monkeypatch.setattr(os, "_exit", lambda code: None)
    for name in ("RANK", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert code_of(raising(UserError("wrong"))) == 2
    assert capsys.readouterr().err == "error: wrong\n" * lines


def test_another_process_does_not_wait_for_the_first(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    code_of(raising(UserError("wrong")))
    assert left == [2]
    code_of(lambda argv: 0)
    assert left == [2]


def test_an_exit_inside_training_is_an_interruption():
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise SystemExit(1)
    with interruptible():
        pass


def test_tips_of_lightning_are_not_shown(capfd):
    from diffguard.training.trainer_config import TrainerConfig
    from lightning_modules.trainer import build_trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    build_trainer(TrainerConfig(accelerator="cpu", devices=1), "title")
    assert not logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)
    output = capfd.readouterr()
    assert output.out + output.err == ""
