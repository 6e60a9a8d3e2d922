"""Masking of secrets in addresses and texts: everything that any parser takes for a password."""

from __future__ import annotations

import itertools
import json
import random
from urllib.parse import quote, quote_plus, urlsplit

import pytest
import sqlalchemy.exc
from sqlalchemy.engine import make_url

from orchestrator import uris
from orchestrator.uris import holds_password, masked, remember_secrets, without_password, without_secrets, without_user

HOST = "db.example.org"
PASSWORDS = [
    *("p/w", "p#w", "p?w", "p[w]", "p@w", "p:w", "p%40w", "pä€w", "12/34", "p@w/x#y", "p?k=v", "a'b", "a/b@c@d"),
    *("@w", "w/", "#w", "a?b@c", "p&w", "p+w", "p%2Fw", "a\\b", "}w{"),
]
FORMS = [
    *(f"postgresql://me:{{}}@{HOST}/studies", f"postgresql+psycopg2://me:{{}}@{HOST}:5432/studies?sslmode=require"),
    *(f"mysql+pymysql://me@{HOST}:3306/studies?passwd={{}}&charset=utf8", f"mysql://{HOST}/s?user=me&password={{}}"),
    *(f"http://me:{{}}@{HOST}:5000", f"https://me:{{}}@{HOST}/mlflow?x=1", f"http://:{{}}@{HOST}"),
    *(f"s3://KEY:{{}}@{HOST}/folder", f"s3://bucket/f?access_key=A&secret_key={{}}&endpoint_override={HOST}"),
    *(f"mssql+pyodbc://me:{{}}@{HOST}/db?driver=x", f"https://{HOST}/f?X-Amz-Signature={{}}&X-Amz-Expires=9"),
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uris, "_known", {})


def odbc(password: str) -> str:
    braced = password.replace("}", "}}")
    settings = f"DRIVER={{SQL}};SERVER={HOST};UID=me;PWD={{{braced}}};Encrypt=no"
    return f"mssql+pyodbc:///?odbc_connect={quote_plus(settings)}"


def addresses(password: str) -> list[str]:
    return [*(form.format(password) for form in FORMS), odbc(password)]


def is_free_of(shown: str, password: str) -> bool:
    return not any(form in shown for form in (password, quote_plus(password), quote(password, safe="")))


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_masked_and_its_host_still_readable(password: str) -> None:
    for address in addresses(password):
        shown = without_password(address)
        assert is_free_of(shown, password), shown
        assert HOST in shown
        assert "***" in shown
        assert holds_password(address)
        if " " not in password:
            text = f'could not reach "{address}" (see {address}), {{"uri": "{address}"}}'
            assert is_free_of(without_secrets(text), password)
            assert without_secrets(text).count(HOST) == 3


def test_passwords_of_any_parser_are_masked() -> None:
    """Generate addresses of random pieces, with the passwords that SQLAlchemy and urllib parse."""
    pieces, draw, read = ("/", "#", "?", "@", ":", "[", "]", "5432", "me", "k=v&"), random.Random(0), 0
    drawn = [tuple(draw.choices(pieces, k=draw.randint(4, 8))) for _ in range(2_000)]
    for parts in [*itertools.product(pieces, repeat=3), *drawn]:
        place = draw.randint(0, len(parts))
        address = f"postgresql://{''.join(parts[:place])}hush{''.join(parts[place:])}@host/db"
        for parse in (make_url, urlsplit):
            try:
                password = parse(address).password
            except (ValueError, sqlalchemy.exc.ArgumentError):
                continue
            if password and "hush" in password:
                read += 1
                assert "hush" not in without_password(address), address
    assert read > 500


@pytest.mark.parametrize(
    "address",
    [
        *("sqlite:////tmp/a:b@c.db", "s3://bucket/a:b/c@d", "/data/images", "digits", "http://mlflow:5000/#/runs/1"),
        *(f"postgresql://me@{HOST}:5432/studies?options=a@b", "http://[::1]:5000/x?mail=a@b", "http://me@mlflow:5000"),
        *("mysql://a_user_with_a_rather_long_name@host/db", "models:/digits@champion", "gs://bucket/monkey?keyring=1"),
    ],
)
def test_texts_without_password_are_unchanged(address: str) -> None:
    assert without_password(address) == address
    assert without_secrets(f"at {address}, 12:30@noon") == f"at {address}, 12:30@noon"
    assert not holds_password(address)


def test_an_address_without_its_scheme_a_token_and_a_nested_address_are_masked() -> None:
    assert without_password("me:hush@mlflow:5000") == "me:***@mlflow:5000"
    assert without_password("http:/me:hush@mlflow:5000") == "http:/me:***@mlflow:5000"
    token = "ghp_0123456789abcdefghij"
    assert without_secrets(f"git+https://{token}@github.com/a/b.git") == "git+https://***@github.com/a/b.git"
    nested = "s3://bucket/x?endpoint_override=http://me:p/w@minio:9000"
    assert without_secrets(nested) == "s3://bucket/x?endpoint_override=http://me:***@minio:9000"
    assert holds_password("{tracking: {uri: http://mlflow}, storage: {uri: 'postgresql://me:p w@host/db'}}")


def test_browser_addresses_hold_neither_user_nor_password() -> None:
    for password in PASSWORDS:
        assert without_user(f"http://me:{password}@{HOST}:5000/x") == f"http://{HOST}:5000/x"
    for address in ("http://mlflow:5000/x", "http://mlflow/x@y", "http://[::1]:5000"):
        assert without_user(address) == address
        assert without_user(address.replace("//", "//me@")) == address


@pytest.mark.parametrize("password", ["p@w", "p/w", "p#w", "p%40w", "hush hush", "pä€w"])
def test_a_remembered_password_is_masked_in_any_text(password: str) -> None:
    remember_secrets([f"postgresql://me:{password}@{HOST}/studies", None, 7])
    decoded = "p@w" if password == "p%40w" else password
    for form in {password, decoded, quote(decoded, safe=""), quote_plus(decoded), json.dumps(decoded)[1:-1]}:
        text = without_secrets(f"login failed: user me, word {form}, host {HOST}")
        assert text == f"login failed: user me, word ***, host {HOST}"


def test_pieces_of_a_password_that_was_cut_apart_are_masked() -> None:
    remember_secrets(["--tracking-uri=http://me:one@two/three@host.example:5000"])
    assert without_secrets("cannot resolve 'two/three@host.example'") == "cannot resolve '***@host.example'"
    assert without_secrets("Failed to parse: 'me:one', label empty") == "Failed to parse: 'me:***', label empty"
    remember_secrets(["postgresql://me:p@w@host.example/db"])
    assert "w@host" not in without_secrets("failed to resolve host 'w@host.example'")


def test_a_password_that_is_also_a_name_does_not_hide_the_name() -> None:
    remember_secrets(["postgresql://postgres:postgres@postgres/postgres", "http://me:password@mlflow"])
    text = "postgresql: the password of user postgres is not right"
    assert without_secrets(text) == text
    assert without_secrets("postgresql://postgres:postgres@postgres/x") == "postgresql://postgres:***@postgres/x"


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "A_PASSWORD",
        "A_PASSWD",
        "MYSQL_PWD",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "X_API_KEY",
        "A_CREDENTIAL",
    ):
        monkeypatch.setenv(name, f"value/of/{name}")
        assert without_secrets(f"<value/of/{name}> {quote_plus(f'value/of/{name}')}") == "<***> ***"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("SOME_SERVER", "http://me:unguessed@host")
    text = "AKIAEXAMPLE /home/me/token"
    assert without_secrets(text) == text
    assert without_secrets("it is unguessed") == "it is ***"


def test_assignments_and_headers_are_masked() -> None:
    assert without_secrets("connect(password='a b', user='me')") == "connect(password='***', user='me')"
    assert without_secrets('{"password": "a\\"b", "host": "h"}') == '{"password": "***", "host": "h"}'
    assert without_secrets("PWD={a;b}};c};SERVER=h") == "PWD=***;SERVER=h"
    assert without_secrets("host=h password=hush dbname=d") == "host=h password=*** dbname=d"
    assert without_secrets("Authorization: Basic bWU6aHVzaA==") == "Authorization: Basic ***"


def test_plain_data_keeps_its_shape() -> None:
    data = {"a": [{"uri": f"http://me:p/w@{HOST}"}, 1, None], "b": ("x", 2.0), "c": "password"}
    assert masked(data) == {"a": [{"uri": f"http://me:***@{HOST}"}, 1, None], "b": ("x", 2.0), "c": "password"}
