"""The doctor says by which authorities destinations are checked."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import certifi
import pytest

from outpost.cli.doctor import tls
from outpost.settings import Settings

NAMED = Settings(destinations_ca_file=certifi.where())


def test_what_the_operator_names_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    found = tls.look(NAMED)
    assert ("ok", "tls", "") == (found.severity, found.about, found.advice)
    assert f"SSL_CERT_FILE={certifi.where()} and DESTINATIONS_CA_FILE={certifi.where()}" in found.text


def test_a_file_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    assert ("problem", True) == ((found := tls.look(Settings())).severity, bool(found.advice))


def test_a_machine_without_authorities_is_one_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    none = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    assert "SSL_CERT_FILE" not in os.environ
    assert "problem" == tls.look(Settings()).severity
    assert "ok" == tls.look(NAMED).severity
