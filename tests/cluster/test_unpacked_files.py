"""Files that `spatialsweep submit` never packs: secrets, links out of the folder, special files."""

from __future__ import annotations

import errno
import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.package import IMPORT_ROOTS, Package, plan_package
from cluster.unpacked_files import is_secret
from orchestrator.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "sweeps" / "digits.yaml"
SECRETS = """
.env .env.production prod.env .envrc server.pem tls.key ID_RSA id_rsa.pub Key.PEM a/id_ed25519 a/id_ecdsa_sk
.ssh/config x/.aws/credentials .azure/token .config/gcloud/a.json .kube/config .netrc .pgpass .pypirc .npmrc
.git-credentials .docker/config.json credentials.json my-service-account-1.json .my.cnf kaggle.json a.p12
a.pfx a.jks a.kdbx .vault-token .terraform/x a.tfstate a.tfstate.backup .cache/huggingface/token secrets.yaml
"""
HARMLESS = "train.py tokens.py config.json keys/readme.md environment.yaml monkey.txt secrets.py"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hush")


def own(packed: Package) -> set[str]:
    return {name for name in packed.files if name.split("/")[0] not in IMPORT_ROOTS} - {packed.sweep}


def test_files_that_may_hold_secrets_are_not_packed_and_named(tmp_path: Path) -> None:
    fill(tmp_path, *SECRETS.split(), *HARMLESS.split())
    packed = plan_package(tmp_path, DIGITS)
    assert own(packed) == set(HARMLESS.split())
    (line,) = packed.left_out
    first = ".azure, .cache/huggingface/token, .config/gcloud, .docker/config.json, .env"
    assert line == f"{first} and 31 more, which may hold secrets"
    packed.write(tmp_path / "package.zip")
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert [name for name in archive.namelist() if is_secret(Path(name))] == []


def test_up_to_five_are_named_and_the_others_counted(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{letter}.pem" for letter in "gfedcba"))
    assert plan_package(tmp_path, DIGITS).left_out == (
        "a.pem, b.pem, c.pem, d.pem, e.pem and 2 more, which may hold secrets",
    )
    assert plan_package(ROOT, DIGITS).left_out == ()


def test_what_an_ignore_file_names_is_not_mentioned(tmp_path: Path) -> None:
    fill(tmp_path, ".env", "out/x.key", "kept.txt")
    (tmp_path / "elsewhere").symlink_to("/etc")
    (tmp_path / ".gitignore").write_text(".env\nelsewhere\n")
    (tmp_path / ".rayignore").write_text("out\n")
    packed = plan_package(tmp_path, DIGITS)
    assert own(packed) == {"kept.txt", ".gitignore", ".rayignore"}
    assert packed.left_out == ()


def test_links_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "mine", tmp_path / "private"
    fill(outside, "diary.txt", "deep/other.txt")
    fill(folder, "v1/model.py", ".env")
    (folder / "diary.txt").symlink_to(outside / "diary.txt")
    (folder / "all").symlink_to(outside)
    (folder / "up").symlink_to("../private")
    (folder / "v1" / "deep").symlink_to("../../private/deep")
    (folder / "v1" / "loop").symlink_to("..")
    (folder / "broken").symlink_to("nowhere")
    (folder / "latest").symlink_to("v1")
    (folder / "same.py").symlink_to("v1/model.py")
    (folder / "harmless.txt").symlink_to(".env")
    packed = plan_package(folder, DIGITS)
    assert own(packed) == {"v1/model.py", "latest/model.py", "same.py"}
    assert sorted(packed.left_out) == [
        ".env, harmless.txt, which may hold secrets",
        "all, diary.txt, latest/deep, latest/loop, up and 2 more, each a link out of the folder, or back into itself",
        "broken, each no file, or with a name that is no text",
    ]


def test_special_files_and_strange_names_do_not_block(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "my" folder; $(x)'
    fill(folder, "sweeps/my sweep's.yaml", "a b.txt", "ü.txt")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    (folder / "sweeps" / "my sweep's.yaml").write_bytes(DIGITS.read_bytes())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        packed = plan_package(folder, folder / "sweeps" / "my sweep's.yaml")
    packed.write(tmp_path / "package.zip")
    assert packed.sweep == "sweeps/my sweep's.yaml"
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert {"a b.txt", "ü.txt", "sweeps/my sweep's.yaml"} <= set(archive.namelist())
    assert packed.left_out == ("'\\udcff.txt', pipe, s, each no file, or with a name that is no text",)


def test_a_sweep_file_that_is_a_secret_or_leads_outside_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fill(tmp_path, "private/sweep.yaml", "private/id_rsa")
    fill(folder, "real.yaml", ".env.yaml")
    (folder / "link.yaml").symlink_to("../private/sweep.yaml")
    (folder / "linked").symlink_to("../private")
    (folder / "harmless.yaml").symlink_to(".env.yaml")
    (folder / "inside.yaml").symlink_to("real.yaml")
    for name in ("link.yaml", "linked/sweep.yaml"):
        with pytest.raises(ConfigError, match="leads outside of the working directory"):
            plan_package(folder, folder / name)
    for path in (folder / ".env.yaml", folder / "harmless.yaml", tmp_path / "private" / "id_rsa"):
        with pytest.raises(ConfigError, match="has a name of files that hold secrets"):
            plan_package(folder, path)
    assert plan_package(folder, folder / "inside.yaml").sweep == "real.yaml"
    assert plan_package(folder, tmp_path / "private" / "sweep.yaml").sweep == "sweep.yaml"


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "locked/a.txt")
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "locked":  # in place of its mode, which root may overrule
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match="locked cannot be read"):
        plan_package(tmp_path, DIGITS)
