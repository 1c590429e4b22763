from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from paddle_infra._core import extension
from paddle_infra._core.atomic import sha256_of
from paddle_infra._core.errors import ExtensionUnavailableError
from paddle_infra._core.extension import ABI, Extension
from paddle_infra._core.runtime import cpu_info

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path):
    """The installed library and its description, in a folder of their own."""
    for file in (extension.LIBRARY, extension.LIBRARY.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    return tmp_path / extension.LIBRARY.name


def rewrite(library: Path, **changes: object) -> None:
    sidecar = library.with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def test_the_installed_library_is_loaded_and_describes_itself():
    status = extension.require()
    assert status.is_loaded
    assert status.is_available
    assert status.reasons == ()
    assert status.build["sha256"] == sha256_of(status.path)
    assert status.build["abi"] == ABI
    assert "are loaded from" in status.explain()
    assert extension.load() is extension.load()


def test_abi_of_the_sources_is_the_one_that_python_needs():
    text = (ROOT / "csrc/common/abi.h").read_text()
    assert re.search(r"#define PADDLE_INFRA_ABI (\d+)\n", text)[1] == str(ABI)


def test_nothing_is_loaded_by_asking(copy):
    library = Extension(copy)
    assert library.status().is_available
    assert not library.status().is_loaded
    assert "not loaded yet" in library.status().explain()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"paddle_version": "3.2.2"},
            r"the library was built for Paddle 3\.2\.2, the installed Paddle is 3\.3\.",
        ),
        ({"abi": ABI + 1}, rf"the library has ABI {ABI + 1}, this version of paddle_infra needs ABI {ABI}"),
        ({"machine": "riscv"}, "the library was built for riscv, this machine is "),
        ({"sha256": "0" * 64}, r"libpaddle_infra\.so is damaged: expected sha256 0{64}, found [0-9a-f]{64}"),
    ],
)
def test_a_library_that_does_not_fit_is_refused_before_it_is_opened(copy, monkeypatch, changes, reason):
    rewrite(copy, **changes)
    library = Extension(copy)
    monkeypatch.setattr(library, "_open", lambda status: pytest.fail("opened"))
    with pytest.raises(ExtensionUnavailableError, match=reason):
        library.require()
    assert len(library.load().reasons) == 1
    assert "python csrc/build.py" in library.load().explain()


def test_another_patch_version_of_paddle_is_accepted(copy):
    rewrite(copy, paddle_version="3.3.99")
    assert Extension(copy).status().is_available


def test_every_reason_is_listed(copy):
    rewrite(copy, paddle_version="3.2.2", abi=0)
    assert len(Extension(copy).load().reasons) == 2


def test_truncated_library(copy):
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(ExtensionUnavailableError, match=r"is damaged: expected sha256 \w+, found \w+"):
        Extension(copy).require()


@pytest.mark.parametrize("name", ["libpaddle_infra.so", "libpaddle_infra.json"])
def test_missing_file(copy, name):
    copy.with_name(name).unlink()
    with pytest.raises(ExtensionUnavailableError, match=rf"{re.escape(name)} does not exist"):
        Extension(copy).require()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"abi": 1}', '{"abi": '])
def test_damaged_description(copy, text):
    copy.with_suffix(".json").write_text(text)
    with pytest.raises(ExtensionUnavailableError, match=r"libpaddle_infra\.json is damaged \(\w+Error: "):
        Extension(copy).require()


def test_text_of_the_dynamic_linker_is_kept(copy):
    source = copy.with_name("caller.cc")
    source.write_text("int missing(); int caller() { return missing(); }")
    copy.unlink()
    subprocess.run(["g++", "-shared", "-fPIC", "-Wl,-z,now", source, "-o", copy], check=True)
    rewrite(copy, sha256=sha256_of(copy))
    message = r"opening .*libpaddle_infra\.so failed: .*undefined symbol: _Z7missingv"
    with pytest.raises(ExtensionUnavailableError, match=message):
        Extension(copy).require()


def test_missing_paddle(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(
        ExtensionUnavailableError, match=r"Paddle cannot be imported \(import of paddle halted"
    ):
        Extension(copy).require()


def test_threads_load_once(copy, monkeypatch):
    library, opened = Extension(copy), []
    monkeypatch.setattr(library, "_open", lambda status: opened.append(1) or status)
    threads = [threading.Thread(target=library.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [1]


def test_warns_once_and_only_if_the_library_is_missing(tmp_path, recwarn):
    library = Extension(tmp_path / "libpaddle_infra.so")
    library.warn_once()
    assert not recwarn  # nobody has tried to load it
    library.load()
    library.warn_once()
    library.warn_once()
    extension.warn_once()
    assert len(recwarn) == 1
    assert recwarn[0].category is UserWarning
    assert re.search(
        "running the slower plain Paddle implementation, because .*libpaddle_infra.so does not exist.*Rebuild",
        str(recwarn[0].message),
    )


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def test_without_the_library_operators_run_in_plain_paddle_and_say_why_once():
    result = python(
        "import pathlib, paddle_infra._core.extension as e\n"
        "broken = e.Extension(pathlib.Path('/nowhere/libpaddle_infra.so'))\n"
        "e.load, e.warn_once = broken.load, broken.warn_once\n"
        "import paddle, paddle_infra.ops as ops\n"
        "for _ in range(2):\n"
        "    args = paddle.ones([2, 3]), paddle.ones([4, 3]), paddle.to_tensor([0, 1])\n"
        "    print(float(ops.linear_cross_entropy(*args)))\n"
        "    try:\n"
        "        ops.linear_cross_entropy(*args, impl='fused')\n"
        "    except ops._select.UnsupportedError as error:\n"
        "        print('/nowhere/libpaddle_infra.so does not exist' in str(error))\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["1.3862943649291992", "True"] * 2
    assert result.stderr.count("because the compiled operators cannot be used") == 1


def test_importing_prints_nothing_and_leaves_logging_alone():
    result = python(
        "import logging\n"
        "import paddle_infra, paddle_infra.ops, paddle\n"
        "assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_quiet_import_keeps_existing_handlers():
    from paddle_infra._core.paddle_import import quiet_import_paddle

    root = logging.getLogger()
    before = root.level, list(root.handlers)
    quiet_import_paddle()
    assert (root.level, list(root.handlers)) == before


def test_the_best_instruction_set_is_used_by_default():
    result = python(
        "from paddle_infra._core import extension; print(extension.require().isa)", PADDLE_INFRA_ISA=""
    )
    needs = {
        "avx2": {"avx2", "fma"},
        "avx512": {"avx512f"},
        "avx512_bf16": {"avx512_bf16"},
        "amx": {"amx_tile", "amx_bf16"},
    }
    best = "portable"
    for name, features in needs.items():
        if not features <= set(cpu_info().features):
            break
        best = name
    assert result.stdout.split()[-1] == best, result.stderr


def test_an_instruction_set_by_setting():
    for isa in ("portable", "emulate_amx"):
        code = "from paddle_infra._core import extension; print(extension.require().isa)"
        assert python(code, PADDLE_INFRA_ISA=isa).stdout.split()[-1] == isa


def test_an_unknown_instruction_set_is_an_error_not_plain_paddle():
    result = python("import paddle_infra", PADDLE_INFRA_ISA="avx")
    assert result.returncode == 1
    assert result.stderr.endswith(
        "ExtensionUnavailableError: PADDLE_INFRA_ISA: expected one of portable, avx2, avx512, avx512_bf16, amx, "
        "emulate_amx, got 'avx'\n"
    )


def test_an_instruction_set_that_is_not_here_is_an_error():
    if "amx_tile" in cpu_info().features:
        pytest.skip("this processor has every instruction set")
    result = python("import paddle_infra", PADDLE_INFRA_ISA="amx")
    assert result.returncode == 1
    assert re.search(
        "ExtensionUnavailableError: PADDLE_INFRA_ISA: this processor or its operating system has no amx, "
        "expected one of portable, .*emulate_amx\n$",
        result.stderr,
    )
