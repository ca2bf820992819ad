"""The order in, the report out, and an eye on whoever reaches for them. Runs INSIDE the sandbox, beside a submission.

The nonce is taken from stdin before the submission is loaded and kept in one closure. To read it, or to alter what the
probe sees, a program has to look into frames, tracebacks, code, the heap or raw memory. Python tells its audit hooks of
most of these steps before they are taken, and a hook can't be taken out: ours writes a doubt to the channel at once, and
what is in that pipe can't be called back. A report that comes after a doubt gives no pass.

Steps without an audit event (`__globals__`, `__subclasses__`, sys.modules, numpy's unchecked strides) are what the
text of a submission is searched for (source.py).
"""

from __future__ import annotations

import _thread
import json
import os
import re
import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

CHANNEL_FD = 3
MAX_DOUBTS = 8
HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
PACKAGES = tuple(path + os.sep for path in sys.path if path.endswith("-packages"))
LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
IMPORTING = "<frozen importlib"
REACHING = {
    "sys._getframe", "sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile", "sys.addaudithook",
    "object.__getattr__", "object.__setattr__", "object.__delattr__", "code.__new__", "function.__new__", "compile", "exec",
    "gc.get_objects", "gc.get_referrers", "gc.get_referents", "marshal.loads", "pickle.find_class", "mmap.__new__", "os.fork",
    "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "pty.spawn",
}  # fmt: skip
# Namespaces of a program: what its own functions are made of is no secret to it, and reading it alters nothing.
OWN: list[dict[str, Any]] = []
# Code of ours at the bottom of a program's threads (threads.py): what stands on nothing else there is the program's doing.
BOTTOMS: list[CodeType] = []
OUTERMOST: list[CodeType] = []  # of the probe itself: below it stands who runs it
# Of the probe's functions, those that stand in a library's place and hand a program's step on: it is the program's all the same.
HANDING_ON: list[CodeType] = []
# Steps that are a program's whoever takes them for it: torch and we call what we are given, and some of that is no code of Python's.
WHOEVER_TAKES_THEM = {"open", "pickle.find_class"}
# Of these it shows: code that takes one of its own accord names it.
NAMED = {"sys._getframe", "sys._current_frames", "sys._current_exceptions", "gc.get_objects", "gc.get_referrers", "gc.get_referents"}
# What tensors, arrays and the results of a data loader's workers are rebuilt with, and names of the program's own
REBUILDING = re.compile(
    r"(__main__|submission) [A-Za-z]\w*|builtins \w+Error|collections OrderedDict|argparse Namespace|_codecs encode|"
    r"torch (Tensor|\w+Storage|Size|device|\w*float\d+|u?int\d+|bool)|torch\.storage (\w+Storage|_load_from_bytes)|"
    r"torch\.nn\.parameter Parameter|torch\._utils (_rebuild_(tensor(_v2|_v3)?|parameter)|ExceptionWrapper)|"
    r"torch\.multiprocessing\.reductions rebuild_(storage_(fd|filename|empty)|tensor|typed_storage)|"
    r"torch\.utils\.data\._utils\.worker _\w+|multiprocessing\.resource_sharer DupFd|"
    r"numpy (ndarray|dtype|\w*float\d+|u?int\d+)|numpy\._?core\.multiarray (_reconstruct|scalar)"
)
# Files of the kernel that lead nowhere, which torch and our stand-ins read as well
TELLS_OF_THE_MACHINE = re.compile(r"/proc/(meminfo|cpuinfo|uptime|loadavg|version|stat|\d+/(statm|io|status))|/sys/devices/system/.*")
# What the library does on behalf of plain programs: annotations as text (compiling alone runs nothing), named tuples,
# dataclasses, enums, type variables, warnings, logs.
PLAIN = {
    "collections/__init__.py": {"sys._getframe", "exec", "compile", "object.__getattr__", "object.__setattr__", "function.__new__"},
    "dataclasses.py": {"exec", "compile", "object.__getattr__", "object.__setattr__"},
    "typing.py": {"sys._getframe", "compile", "object.__getattr__", "object.__setattr__"},
    "enum.py": {"sys._getframe"},
    "warnings.py": {"sys._getframe"},
    "logging/__init__.py": {"sys._getframe", "object.__getattr__"},
    "functools.py": {"object.__getattr__"},
    "copyreg.py": {"object.__getattr__"},
    "asyncio/selector_events.py": {"socket.__new__"},  # a pair by which a loop wakes itself
    "asyncio/coroutines.py": {"object.__getattr__"},  # a coroutine as text
}


def take_order() -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """(the order without its nonce, a function that sends the report and ends the process)."""
    order = json.loads(sys.stdin.read())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    return order, _reporter(order.pop("nonce"))


def _reporter(nonce: str) -> Callable[[dict[str, Any]], None]:
    dumps, write, leave = json.dumps, os.write, os._exit

    def report(facts: dict[str, Any]) -> None:
        data = dumps({**facts, "nonce": nonce}).encode() + b"\n"
        while data:
            data = data[write(CHANNEL_FD, data) :]
        leave(0)

    return report


def watch(*modules: str) -> Callable[..., None]:
    """From now on, tell of each step that no honest submission takes. It can't be undone.

    Returns a function that tells of one: what it is, and the frame it is seen in where that is not the caller's.
    `modules`: the probe's own, which are no longer found by name; sys.modules stays in the submission's reach.
    """
    hook, tell = _hook()
    OUTERMOST.append(_outermost(sys._getframe()))
    for name in (*modules, __name__):
        sys.modules.pop(name, None)
    sys.modules["__main__"] = type(sys)("__main__")
    sys.addaudithook(hook)
    return tell


def _outermost(frame: FrameType | None) -> CodeType:
    assert frame
    code = frame.f_code
    while frame := frame.f_back:
        code = frame.f_code if frame.f_code.co_filename.startswith(HERE) else code
    return code


def _hook() -> tuple[Callable[[str, tuple[Any, ...]], None], Callable[..., None]]:
    ident, _getframe, suspicious, message, is_reaching, send = (
        _thread.get_ident,
        sys._getframe,
        _suspicious,
        _message,
        _reaching(),
        _sender(),
    )
    busy: set[int] = set()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not is_reaching(event, args):
            return
        me = ident()
        if me in busy:
            return
        busy.add(me)
        try:
            if frame := suspicious(event, _getframe(1)):
                send(message(event, args, frame))
        finally:
            busy.discard(me)

    def tell(what: str, frame: FrameType | None = None) -> None:
        frame = frame or _getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith((HERE, LIBRARY, "<frozen ", *PACKAGES)):
            frame = frame.f_back
        send(message(what, (), frame))

    return hook, tell


def _sender() -> Callable[[bytes], None]:
    state, write, leave = os.fstat, os.write, os._exit
    channel = state(CHANNEL_FD)  # it may be closed, and another thing opened under its number
    told: list[int] = []

    def send(line: bytes) -> None:
        told.append(1)
        if len(told) > MAX_DOUBTS:
            return
        try:
            if state(CHANNEL_FD)[:3] != channel[:3]:  # mode, inode, device
                leave(86)
            write(CHANNEL_FD, line)
        except OSError:
            leave(86)

    return send


def _suspicious(event: str, frame: FrameType | None) -> FrameType | None:
    """The frame of the submission that stands behind this event, or None when it is the library's own doing.

    Where a step is the submission's and no code of it is at work, as it has left a function behind: the outermost of ours.
    """
    hands_on = event in WHOEVER_TAKES_THEM or (event in NAMED and frame is not None and not _names(frame.f_code, event.rpartition(".")[2]))
    last = frame
    while frame is not None:
        name, last = frame.f_code.co_filename, frame
        if _is_one_of(frame.f_code, BOTTOMS) or _is_one_of(frame.f_code, OUTERMOST):
            return frame
        if not _is_one_of(frame.f_code, HANDING_ON):
            if name.startswith((HERE, IMPORTING, *PACKAGES)):
                if not hands_on:
                    return None
            elif not name.startswith((LIBRARY, "<frozen ")):
                return frame
            elif not hands_on and event in PLAIN.get(name[len(LIBRARY) :], ()):
                return None
        frame = frame.f_back
    return last if hands_on else None


def _names(code: CodeType, name: str) -> bool:
    return name in code.co_names or name in code.co_freevars


def _is_one_of(code: CodeType, codes: list[CodeType]) -> bool:
    """Itself: code objects of the same content are equal, and a program can have a copy."""
    return any(code is one for one in codes)


def _reaching() -> Callable[[str, tuple[Any, ...]], bool]:
    reaching, leads_somewhere, function, rebuilding = frozenset(REACHING), _leads_somewhere(), FunctionType, REBUILDING.fullmatch

    def is_reaching(event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            return leads_somewhere(args[0])
        if event == "pickle.find_class":
            return not (type(args[0]) is type(args[1]) is str and rebuilding(f"{args[0]} {args[1]}"))
        if event not in reaching:
            return event[:7] in ("ctypes.", "socket.")
        if event == "object.__getattr__" and type(args[0]) is function and any(args[0].__globals__ is own for own in OWN):
            return False
        # whoever has a frame was told of when it got it, and the probe asks for the code of every frame
        return event != "object.__getattr__" or args[1] != "f_code"

    return is_reaching


def _leads_somewhere() -> Callable[[Any], bool]:
    real, leads, fs, plain = os.path.realpath, ("/proc", "/sys", "/dev/fd"), os.fsdecode, TELLS_OF_THE_MACHINE.fullmatch

    def leads_somewhere(path: Any) -> bool:
        """A descriptor by its number, or a file that the kernel makes, by whatever way round. Runs nothing of the program's."""
        kind = type(path)
        if issubclass(kind, int):
            return int.__index__(path) > 2
        if issubclass(kind, str):
            name = real(str.__str__(path))
        elif issubclass(kind, bytes):
            name = real(fs(bytes.__getitem__(path, slice(None))))
        else:  # it says itself what it is, and perhaps something else the next time; open() has asked it by now
            return True
        return name.startswith(leads) and not plain(name)

    return leads_somewhere


def _message(event: str, args: tuple[Any, ...], frame: FrameType) -> bytes:
    name = args[1] if event.startswith("object.") and len(args) > 1 and type(args[1]) is str else ""
    text = f"{_place(frame)} uses {event}{' ' + name if name else ''}"
    return json.dumps({"doubt": text[:200]}).encode() + b"\n"


def _place(frame: FrameType) -> str:
    if _is_one_of(frame.f_code, BOTTOMS):
        return "a thread"
    is_none = frame.f_code.co_filename.startswith((HERE, LIBRARY, "<frozen ", *PACKAGES))  # of the submission's lines
    return "a function that it left behind" if is_none else f"line {frame.f_lineno}"
