"""The executor with tiny commands of Python: failures, locks, kills and restarts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlrec.reproduction import execute as execution
from rlrec.reproduction.execute import default_workers, execute, last_lines, take_lock
from rlrec.reproduction.plan import DEFAULT_MEMORY, Job
from rlrec.reproduction.tables import Cell

PATIENCE = 240  # seconds; tests may run beside anything
# What a job does: note that it has begun, wait (some seconds, or for a file), fail or write its results.
WORK = """
import os, pathlib, sys, time
folder, until, outcome = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(folder / "begun", "a") as begun:
    begun.write(f"{os.getpid()}\\n")
print("reading", flush=True)
while os.path.isabs(until) and not os.path.exists(until):
    time.sleep(0.05)
time.sleep(0 if os.path.isabs(until) else float(until))
if outcome == "fail":
    print("10 %\\r20 %\\rValueError: no such column", flush=True)
    sys.exit(3)
if outcome == "write":
    (folder / "part").write_text("{}")
    os.replace(folder / "part", folder / "results.json")
"""


class Work(Job):
    """A job whose command needs no recipe."""

    def command(self, launcher=()):
        return [sys.executable, "-c", WORK, str(self.folder), *self.arguments]


def work(folder: Path, until=0.0, outcome="write", **changes) -> Work:
    cells = (Cell("fm", "simulated", 0, "missing", {}, folder),)
    settings = {"minutes": None, "memory": DEFAULT_MEMORY, "pretrained": False, **changes}
    return Work(folder.name, folder, "none", (str(until), outcome), cells, **settings)


def renew(job: Job) -> Job | None:
    return None if (job.folder / "results.json").is_file() else job


def begun(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "begun").read_text().split()] if (folder / "begun").is_file() else []


def wait_for(condition, seconds=PATIENCE):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "nothing happened in time"
        time.sleep(0.02)


def is_alive(number: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_are_made_once(tmp_path, capsys):
    jobs = [work(tmp_path / name) for name in "abc"]
    assert execute(jobs, 2, renew) == {}
    assert all(len(begun(job.folder)) == 1 for job in jobs)
    assert execute(jobs, 2, renew) == {}
    assert all(len(begun(job.folder)) == 1 for job in jobs)  # nothing was left to do
    log = (tmp_path / "a" / "output.log").read_text()
    assert log.startswith("\n$ ")
    assert log.endswith("reading\n")
    assert "made   b in " in capsys.readouterr().err


def test_a_failing_job_is_named_and_the_others_go_on(tmp_path, capsys):
    jobs = [work(tmp_path / "bad", outcome="fail"), work(tmp_path / "idle", outcome="none"), work(tmp_path / "good")]
    failed = execute(jobs, 1, renew)
    assert set(failed) == {tmp_path / "bad", tmp_path / "idle"}
    assert "ended with status 3" in failed[tmp_path / "bad"]
    assert failed[tmp_path / "bad"].endswith("reading\n20 %".replace("20 %", "ValueError: no such column"))
    assert "ended without the rows fm" in failed[tmp_path / "idle"]
    assert (tmp_path / "good" / "results.json").is_file()
    assert "failed bad after" in capsys.readouterr().err


def test_a_job_that_is_killed(tmp_path):
    job = work(tmp_path / "job", until=600)
    script = f"import os, signal, time\nwhile not os.path.exists({str(job.folder / 'begun')!r}): time.sleep(0.02)\n"
    script += f"os.kill(int(open({str(job.folder / 'begun')!r}).read()), signal.SIGKILL)\n"
    killer = subprocess.Popen([sys.executable, "-c", script])
    failed = execute([job], 1, renew)
    assert killer.wait() == 0
    assert "was ended by SIGKILL; the machine may have run out of memory" in failed[job.folder]


def test_jobs_are_alone_on_one_core_unless_told(tmp_path, monkeypatch):
    show = "import os, sys; print(os.environ.get('OMP_NUM_THREADS')); open(sys.argv[1], 'w').close()"
    monkeypatch.setattr(
        Work, "command", lambda self, _: [sys.executable, "-c", show, str(self.folder / "results.json")]
    )
    for number, (threads, pretrained, told) in enumerate(
        [(None, False, "1"), ("4", False, "4"), (None, True, "None")]
    ):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        job = work(tmp_path / str(number), pretrained=pretrained)
        assert execute([job], 1, renew) == {}
        assert last_lines(job.folder / "output.log") == [*last_lines(job.folder / "output.log")[:-1], told]


HARNESS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_reproduction_execute import execute, renew, work
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)
folders = [Path(path) for path in sys.argv[3:]]
try:
    print(execute([work(folder, until=sys.argv[2]) for folder in folders], 2, renew))
except KeyboardInterrupt:
    sys.exit(130)
"""


def harness(until, *folders: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HARNESS, str(Path(__file__).parent), str(until), *map(str, folders)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_killed_harness_goes_on(tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    first = harness(tmp_path / "go", *folders)
    wait_for(lambda: begun(folders[0]) and begun(folders[1]))
    first.kill()  # its jobs live on, and hold their locks
    first.wait()
    assert take_lock(folders[0]) is None
    second = harness(tmp_path / "go", *folders)
    wait_for(lambda: begun(folders[2]) and begun(folders[3]))  # those that nobody makes yet
    (tmp_path / "go").touch()
    output, _ = second.communicate(timeout=PATIENCE)
    assert output == "{}\n"
    assert all((folder / "results.json").is_file() for folder in folders)
    assert [len(begun(folder)) for folder in folders] == [1, 1, 1, 1]  # nobody made a cell twice


def test_a_killed_job_is_made_again(tmp_path):
    first = harness(600.0, tmp_path / "a")
    wait_for(lambda: begun(tmp_path / "a"))
    first.kill()
    os.kill(begun(tmp_path / "a")[0], signal.SIGKILL)
    first.wait()
    wait_for(lambda: not is_alive(begun(tmp_path / "a")[0]))
    assert execute([work(tmp_path / "a")], 1, renew) == {}
    assert len(begun(tmp_path / "a")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_jobs(tmp_path, number):
    running = harness(600.0, tmp_path / "a", tmp_path / "b")
    wait_for(lambda: begun(tmp_path / "a") and begun(tmp_path / "b"))
    running.send_signal(number)
    assert running.wait(timeout=PATIENCE) == 130
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert not is_alive(begun(folder)[0])
        lock = take_lock(folder)
        assert lock is not None
        os.close(lock)


def test_two_harnesses_share_the_work(tmp_path):
    folders = [tmp_path / name for name in "abcdef"]
    harnesses = [harness(0.3, *folders), harness(0.3, *folders)]
    assert [running.communicate(timeout=PATIENCE)[0] for running in harnesses] == ["{}\n", "{}\n"]
    assert [len(begun(folder)) for folder in folders] == [1] * 6


def test_other_cells_first_where_one_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.01)
    lock = take_lock(tmp_path / "a")
    order = []

    def noting(job: Job) -> Job | None:
        order.append(job.name)
        if job.name == "b" and renew(job) is None:
            os.close(lock)  # the other process is done as soon as b is
        return renew(job)

    assert execute([work(tmp_path / "a"), work(tmp_path / "b")], 1, noting) == {}
    assert order == ["b", "b", "a", "a"]


def test_workers_by_memory_and_device(tmp_path, monkeypatch):
    class Memory:
        available = 7 * 2**30

    monkeypatch.setattr(execution.psutil, "virtual_memory", Memory)
    monkeypatch.setattr(execution.os, "sched_getaffinity", lambda _: set(range(8)))
    assert default_workers([work(tmp_path / "a"), work(tmp_path / "b", memory=3 * 2**30)]) == 2
    assert default_workers([work(tmp_path / "a")]) == 3
    assert default_workers([work(tmp_path / "a", memory=2**40)]) == 1
    assert default_workers([work(tmp_path / "a", pretrained=True)]) == 1
