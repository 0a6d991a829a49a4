"""Java processes that run ScienceWorld: bounded in memory, shared by several episodes, replaced when they fail.

Responsible for starting processes, assigning seats, and making one call at a time in each process: the simulator keeps
state outside its instances, so concurrent calls silently give wrong scores. All instances of a process share one random
generator and one counter for the numbers of objects, so both are set before every call. The simulator's order of
objects depends on these numbers, on Java's identity hashes, which are made constant, and on the numbers of object
types, which start as shipped in the package. Therefore an episode does not depend on the others in its process.
`game.py` makes the calls.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from env_adapters.child_variables import child_variables
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing
from upturn import packages

T = TypeVar("T")
SEATS = 32
"""Instances per process. Measured: each uses 8 to 14 MB of heap."""
OPTIONS = (
    "-Xmx768m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)
"""The heap is large enough for all seats plus working memory; `hashCode=2` makes the identity hash constant."""
CALL_S = 45.0
"""Time limit of a call. Measured: the slowest solution takes 5 s on an idle machine."""
START_S = 60.0
"""Time limit for a new process to report its port; default chosen by this project."""
THINGS = 1_000_000
"""Object numbers reserved per call, chosen by this project. Loading a house takes some hundreds."""


def missing() -> str | None:
    """Return the commands that install what is missing, or None."""
    needs = [] if importlib.util.find_spec("scienceworld") else [packages.command("scienceworld")]
    needs += [] if shutil.which("java") else ["apt-get install default-jre-headless"]
    return " and ".join(needs) or None


def _jar() -> Path:
    spec = importlib.util.find_spec("scienceworld")  # Importing the package would start a process.
    if spec is None or spec.origin is None:
        raise EnvironmentMissing(packages.command("scienceworld"))
    return Path(spec.origin).with_name("scienceworld.jar")


class Java:
    """One process. Its other methods must be called inside `call`."""

    def __init__(self) -> None:
        self._py4j: Any = importlib.import_module("py4j.java_gateway")
        self._errors: Any = importlib.import_module("py4j.protocol")
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Lock()
        self.taken = 0
        """Seats in use; maintained by the pool."""
        self._ended = False
        # The simulator reads its object types from the working directory, and writes new ones there.
        self._directory = tempfile.TemporaryDirectory(prefix="sciworld-")
        shutil.copy(_jar().with_name("object_type_ids.tsv"), self._directory.name)
        command = [
            "java",
            *OPTIONS,
            "-classpath",
            os.pathsep.join([self._py4j.find_jar_path(), str(_jar())]),
            "py4j.GatewayServer",
            "--die-on-broken-pipe",
            "--enable-auth",
            "0",
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._directory.name,
            env=child_variables("JAVA_HOME"),
        )
        self._gateway: Any = None
        self.call(self._connect)

    @property
    def alive(self) -> bool:
        """Whether it can still answer calls."""
        return not self._ended and self.process.poll() is None

    def _connect(self) -> None:
        assert self.process.stdout is not None
        stuck = threading.Timer(START_S, self.process.kill)
        stuck.daemon = True
        stuck.start()
        port, token = self.process.stdout.readline(), self.process.stdout.readline()
        stuck.cancel()
        if not port.strip().isdigit():
            raise EnvironmentFailure("Java could not start ScienceWorld")
        self._gateway = self._py4j.JavaGateway(
            gateway_parameters=self._py4j.GatewayParameters(
                port=int(port), auth_token=token.decode().strip(), read_timeout=CALL_S, enable_memory_management=False
            )
        )
        jvm = self._gateway.jvm
        nowhere = jvm.java.io.OutputStream.nullOutputStream()
        jvm.java.lang.System.setOut(jvm.java.io.PrintStream(nowhere))  # Nothing reads the simulator's output.
        module = jvm.java.lang.Class.forName
        self._random = module("scala.util.Random$").getField("MODULE$").get(None)
        self._number_from = getattr(module("util.UniqueIdentifier$").getField("MODULE$").get(None), "count_$eq")
        self._string = jvm.java.lang.String
        self._world = jvm.scienceworld.runtime.pythonapi.PythonInterface

    def call(self, do: Callable[[], T]) -> T:
        """Call `do` with exclusive access to the process.

        Raises:
            EnvironmentFailure: the simulator raised an error, or the process hung or died and has been ended.
        """
        with self._one_at_a_time:
            if not self.alive:
                raise EnvironmentFailure("the Java process of this ScienceWorld episode has ended")
            try:
                return do()
            except self._errors.Py4JJavaError as error:
                raise EnvironmentFailure(f"ScienceWorld failed: {str(error).splitlines()[1:2]}") from error
            except self._errors.Py4JError as error:
                self.stop()
                raise EnvironmentFailure(f"the Java process of ScienceWorld hung or died: {error}") from error
            except BaseException:  # Interrupted within a message, so the next reply would be ambiguous.
                self.stop()
                raise

    def world(self) -> Any:
        """Make an instance of the simulator."""
        return self._world()

    def seed(self, number: int, call: int) -> None:
        """Set the random generator to `number`, and the object counter for an episode's call with index `call`."""
        self._random.setSeed(number)
        self._number_from(call * THINGS)

    def texts(self, found: Any) -> list[str]:
        """Return a Java list of strings, transferred in one message instead of one per string."""
        joined: str = self._string.join("\n", found)
        self.release(found)
        return joined.split("\n") if joined else []

    def release(self, thing: Any) -> None:
        """Let Java garbage-collect an object that it returned."""
        self._gateway.detach(thing)

    def stop(self) -> None:
        """End the process; the episodes in it fail at their next call."""
        with self._stopping:
            self._ended = True
            self.process.kill()
            self.process.wait()
            if self._gateway is not None:
                self._gateway.close(keep_callback_server=True)
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self._directory.cleanup()


class Javas:
    """The pool of Java processes: as many as the taken seats need, at least one once started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Java] = []

    def take(self) -> Java:
        """Take a seat in the emptiest process with a free seat, or in a new process.

        Raises:
            EnvironmentFailure: Java does not start.
        """
        with self._lock:
            for java in [java for java in self._all if not java.alive]:
                java.stop()
                self._all.remove(java)
            free = [java for java in self._all if java.taken < SEATS]
            if not free:
                free = [Java()]
                self._all += free
            chosen = min(free, key=lambda java: java.taken)
            chosen.taken += 1
            return chosen

    def give_back(self, java: Java) -> None:
        """Free a seat. A process without taken seats ends, unless it is the only one."""
        with self._lock:
            java.taken -= 1
            if java.taken or self._all == [java]:
                return
            if java in self._all:
                self._all.remove(java)
        java.stop()

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            for java in self._all:
                java.stop()
            self._all.clear()


JAVAS = Javas()
atexit.register(JAVAS.stop)
