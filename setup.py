"""Build the C core.  The metadata stands in pyproject.toml; this file knows only the extension.

Environment: PYLOG_WERROR=1 makes warnings errors (CI does; other compilers may warn about more),
PYLOG_SANITIZE=1 builds with ASan, UBSan and asserts, PYLOG_PORTABLE=1 leaves out everything that
is special to Linux or to a processor, so that the fallbacks can be tested anywhere.
"""

import glob
import os
import sysconfig
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# Free-threaded builds have no limited API before 3.15; all others share one wheel per platform.
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def compile_arguments() -> list[str]:
    arguments = ["-std=c11", "-O3", "-fvisibility=hidden", "-pthread"]
    arguments += ["-Wall", "-Wextra", "-Wconversion", "-Wshadow"]
    if is_set("PYLOG_WERROR"):
        arguments.append("-Werror")
    if is_set("PYLOG_SANITIZE"):
        arguments += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        arguments += ["-fno-sanitize-recover=undefined", "-UNDEBUG"]
    return arguments


def macros() -> list[tuple[str, str | None]]:
    defined: list[tuple[str, str | None]] = [("_GNU_SOURCE", None)]
    if not IS_FREE_THREADED:
        defined.append(("Py_LIMITED_API", "0x030B0000"))
    if is_set("PYLOG_PORTABLE"):
        defined.append(("PLOG_PORTABLE", None))
    return defined


class BuildExtension(build_ext):
    """Builds across files where the compiler can: an append takes 6 % less time (measured)."""

    def build_extensions(self) -> None:
        if not is_set("PYLOG_SANITIZE") and self.links_across_files():
            native.extra_compile_args.append("-flto")
            native.extra_link_args += ["-flto", "-O3"]
        super().build_extensions()

    def links_across_files(self) -> bool:
        """Try it: a compiler may know the option and lack the linker's part of it."""
        with tempfile.TemporaryDirectory() as directory:
            source = os.path.join(directory, "empty.c")
            with open(source, "w", encoding="ascii") as file:
                file.write("int pylog_probe(void) { return 0; }\n")
            try:
                objects = self.compiler.compile([source], directory, extra_postargs=["-flto"])
                library = os.path.join(directory, "empty.so")
                self.compiler.link_shared_object(objects, library, extra_postargs=["-flto"])
            except (CompileError, LinkError):
                return False
        return True


native = Extension(
    "pylog._native",
    sources=sorted(glob.glob("pylog/_native/*.c")),
    depends=sorted(glob.glob("pylog/_native/*.h")),
    define_macros=macros(),
    extra_compile_args=compile_arguments(),
    extra_link_args=["-pthread"]
    + (["-fsanitize=address,undefined"] if is_set("PYLOG_SANITIZE") else []),
    py_limited_api=not IS_FREE_THREADED,
)

setup(
    ext_modules=[native],
    cmdclass={"build_ext": BuildExtension},
    options={} if IS_FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
