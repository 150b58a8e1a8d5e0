"""Makes the ROS 2 wheels in this interpreter's environment usable by compilers and by programs that are not Python.

The wheels are built for rclpy alone. Three things keep CMake, the linker and a plain executable from using them, and each
function below mends one. Every step looks at what is there and replaces a file at once or not at all, so a second run, or
one after an interruption, is harmless.

    python mend_wheels.py
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PREFIX = Path(sys.prefix)
LIB = PREFIX / "lib"
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
# Prefix of the interpreter that the wheels were built with; it exists on no user's machine.
BUILD_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+")


def main() -> None:
    """Mends libraries, the middleware's name and the CMake files, in this order."""
    mend_libraries()
    name_middleware()
    mend_cmake_files()


def mend_libraries() -> None:
    """Gives every library a search path that works, and frees C libraries of those that need a Python interpreter.

    `librcl.so` and others name the `*_generator_py.so` libraries as needed; a program without Python cannot resolve the
    symbols of those. rclpy imports them by itself.
    """
    libraries = [*LIB.glob("*.so*"), *SITE_PACKAGES.glob("rclpy/*.so"), *SITE_PACKAGES.glob("*/*__rosidl_*.so")]
    bundled = list(SITE_PACKAGES.glob("ros_*.libs"))
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda path: mend_library(path, bundled), filter(is_elf, libraries)):
            pass


def mend_library(path: Path, bundled: list[Path]) -> None:
    """Mends one library, which may need those in the `bundled` folders."""
    folders = [os.path.relpath(folder, path.parent) for folder in [LIB, *sorted(bundled)]]
    rpath = ":".join(f"$ORIGIN/{folder}" for folder in folders)
    if patchelf("--print-rpath", path) != rpath:
        mend_elf(path, "--force-rpath", "--set-rpath", rpath)
    if path.parent != LIB or "generator_py" in path.name:
        return
    python_only = [name for name in patchelf("--print-needed", path).split() if name.endswith("__rosidl_generator_py.so")]
    if python_only:
        mend_elf(path, *(word for name in python_only for word in ("--remove-needed", name)))


def mend_elf(path: Path, *words: str) -> None:
    """Lets patchelf change a library."""
    with replacing(path) as new:
        patchelf(*words, "--output", new, path)
        shutil.copymode(path, new)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write what takes its place in the end."""
    new = path.with_name(f"{path.name}.new")
    yield new
    os.replace(new, path)


def patchelf(*words: object) -> str:
    """Runs the environment's patchelf and returns what it prints."""
    command = [str(PREFIX / "bin" / "patchelf"), *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def is_elf(path: Path) -> bool:
    """Tells a shared library from a linker script or a symbolic link."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def name_middleware() -> None:
    """Supplies `librmw_implementation.so`, which the wheels leave out because they link one middleware directly.

    A linker script is enough: whoever links against it ends up with that middleware.
    """
    (LIB / "librmw_implementation.so").write_text("INPUT(-lrmw_fastrtps_cpp)\n")


def mend_cmake_files() -> None:
    """Points the paths of the wheels' build machine in `share/` to this interpreter's headers and packages."""
    for path in PREFIX.glob("share/**/*.cmake"):
        text = path.read_text()
        mended = BUILD_PYTHON.sub(str(PREFIX), text).replace(
            f"{PREFIX}/include/python{sysconfig.get_python_version()}", sysconfig.get_path("include")
        )
        if mended != text:
            with replacing(path) as new:
                new.write_text(mended)


if __name__ == "__main__":
    main()
