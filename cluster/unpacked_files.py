"""Exclusion of secrets, and of links out of the working directory, from a job's package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

SECRET = "which may hold secrets"  # noqa: S105
LINK = "each a link out of the folder, or back into itself"
SPECIAL = "each no file, or with a name that is no text"

# Names of files and folders at any depth, in lower case; upper case is the same here. docs/cluster.md lists them.
SECRET_FILES = [
    # keys and certificates
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.keytab", "krb5cc_*"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg"),
    # settings of environments
    *(".env*", "*.env", "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml", ".secrets*"),
    # clouds and clusters
    *(".aws", ".azure", ".oci", ".config/gcloud", ".boto", ".s3cfg", ".passwd-s3fs", "rclone.conf"),
    *("credentials", "credentials*.json", "credentials*.y*ml", "credentials.ini", "credentials.toml"),
    *("*service-account*.json", "*service_account*.json", "client_secret*.json", "token.json"),
    *(".kube", "kubeconfig*", "*.kubeconfig", ".ray", ".databrickscfg", ".vault-token"),
    *(".terraform", "*.tfstate", "*.tfstate.*", "*.tfvars"),
    # logins of tools
    *(".netrc", "_netrc", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf", ".htpasswd"),
    *(
        ".pypirc",
        "pip.conf",
        ".npmrc",
        ".yarnrc",
        ".git-credentials",
        ".config/gh",
        ".docker/config.json",
        ".dockercfg",
    ),
    *("kaggle.json", ".kaggle", ".huggingface", ".cache/huggingface/token", ".cache/huggingface/stored_tokens"),
    *(".bash_history", ".zsh_history", ".python_history", ".psql_history"),
]
_SECRET = re.compile(
    rf"(?:^|/)(?:{'|'.join(re.escape(name).replace(re.escape('*'), '[^/]*') for name in SECRET_FILES)})(?:/|$)"
)
_NAMED = 5


class LeftOut:
    """Filter of a folder's paths that records what it excludes.

    Args:
        folder: Working directory, resolved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, list[str]] = {}

    def takes(self, path: Path) -> bool:
        """Return whether to exclude a path, which may be a link; an excluded folder is not searched."""
        reason = self.reason(path)
        if reason:
            self._found.setdefault(reason, []).append(_shown(path.relative_to(self._folder)))
        return bool(reason)

    def reason(self, path: Path) -> str:
        """Return why a path is excluded; empty if it is packed."""
        target = path.resolve()
        if path.is_symlink() and (not target.is_relative_to(self._folder) or self._leads_back(path, target)):
            return LINK
        names = [path.relative_to(self._folder), target.relative_to(self._folder)]
        if any(is_secret(name) for name in names):
            return SECRET
        is_text = str(path).isascii() or "\\ud" not in ascii(str(path))
        return "" if is_text and (target.is_dir() or target.is_file()) else SPECIAL

    def in_words(self) -> Iterator[str]:
        """Yield one line for each reason, with the first names."""
        for reason, names in self._found.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"{', '.join(sorted(names)[:_NAMED])}{more}, {reason}"

    def _leads_back(self, link: Path, target: Path) -> bool:
        above = [parent.resolve() for parent in link.parents if parent.is_relative_to(self._folder)]
        return target in above


def is_secret(name: Path) -> bool:
    """Return whether a file of this name, relative to the working directory, is one that holds secrets."""
    return _SECRET.search(name.as_posix().lower()) is not None


def _shown(name: Path) -> str:
    """Return a name on one line, with unprintable characters escaped."""
    text = name.as_posix()
    return text if text.isprintable() else ascii(text)
