"""Build the C core.  The metadata stands in pyproject.toml; this file knows only the extension.

Environment: PYLOG_WERROR=1 makes warnings errors (CI does; other compilers may warn about more),
PYLOG_SANITIZE=1 builds with ASan, UBSan and asserts, PYLOG_PORTABLE=1 leaves out everything that
is special to Linux or to a processor, so that the fallbacks can be tested anywhere.
"""

import glob
import os
import sysconfig

from setuptools import Extension, setup

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
    options={} if IS_FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
