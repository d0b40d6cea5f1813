"""Dockerfile and compose.yaml against the code: variables, ports, commands, health checks. No Docker is needed:
both are read, and what they say is asked of the settings, of the command line and of the health routes.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from outpost.api import app as api
from outpost.cli import main
from outpost.log.redis import client
from outpost.settings import Settings
from outpost.settings import load as settings_load
from outpost.settings import table as settings_table

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("outpost", "api", "delivery", "log")
ROLES = {"outpost": "all", "api": "api", "delivery": "delivery", "log": "log"}
KNOWN = {variable.env: variable for variable in settings_table.VARIABLES}
# What a user writes into .env.
FILLED_IN = {"API_KEY": "k" * 32, "AES_ENCRYPTION_SECRET": "a" * 32, "POSTGRES_PASSWORD": "p" * 32}
REFERENCE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile: instruction and arguments, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name, rest) for name, rest in pairs]


def instruction(name: str) -> str:
    [found] = [rest for each, rest in instructions() if each == name]
    return found


def health_command() -> list[str]:
    """What the image runs to find out about its health."""
    return json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])


def interpolated(value: Any, given: dict[str, str]) -> str:
    """As Compose does it. Raises KeyError for a variable that must be given and is not."""

    def put(match: re.Match[str]) -> str:
        if text := given.get(match["name"]):
            return text
        if match["how"] == "-":
            return match["text"]
        raise KeyError(match["name"])

    return REFERENCE.sub(put, str(value))


def environment(service: str, given: dict[str, str]) -> dict[str, str]:
    return {name: interpolated(value, given) for name, value in SERVICES[service]["environment"].items()}


def command(service: str) -> list[str]:
    """What runs in the container: the image's entry point with its command or the service's own."""
    return [
        *json.loads(instruction("ENTRYPOINT")),
        *SERVICES[service].get("command", json.loads(instruction("CMD"))),
    ]


def started(service: str) -> Settings:
    """The settings with which the service would start."""
    program, *words = command(service)
    assert "outpost" == program
    args = main.parser().parse_args(words)
    return settings_load.load(environment(service, FILLED_IN), None, args.service)


@pytest.mark.parametrize("service", OURS)
def test_each_service_starts_with_the_settings_it_is_given(service, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # away from any .env
    settings = started(service)
    assert ROLES[service] == settings.service
    assert ["redis", 6379] == [settings.redis_host, settings.redis_port]
    assert f"postgres://outpost:{'p' * 32}@postgres:5432/outpost" == settings.postgres_url
    assert [FILLED_IN["API_KEY"], FILLED_IN["AES_ENCRYPTION_SECRET"]] == [
        settings.api_key,
        settings.aes_encryption_secret,
    ]


@pytest.mark.parametrize("service", OURS)
def test_each_variable_is_one_that_the_code_knows_and_obeys(service):
    names = SERVICES[service]["environment"]
    assert set() == {name for name in names if name not in KNOWN or not KNOWN[name].field}


@pytest.mark.parametrize("name", sorted(FILLED_IN))
def test_compose_asks_for_what_has_no_default(name):
    rest = {key: value for key, value in FILLED_IN.items() if key != name}
    service = "postgres" if name == "POSTGRES_PASSWORD" else "api"
    with pytest.raises(KeyError, match=name):
        environment(service, rest)


def test_the_example_names_every_variable_of_the_file_and_no_other():
    lines = (ROOT / ".env.example").read_text().splitlines()
    offered = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    used = {match["name"] for match in REFERENCE.finditer((ROOT / "compose.yaml").read_text())}
    assert used | {"COMPOSE_PROFILES"} == offered


def test_the_image_has_every_destination_type():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = set(project["optional-dependencies"]) - {"all", "bench", "dev", "embedded"}
    [install] = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    installed = re.search(r"pip install -c requirements.lock '\.\[([\w,]+)\]'", install)
    assert installed
    assert optional == set(installed[1].split(","))


def test_one_profile_runs_every_role_in_one_process_the_other_in_three():
    profiles = {name: SERVICES[name].get("profiles") for name in SERVICES}
    split = {name: ["split"] for name in ("api", "delivery", "log")}
    assert {"outpost": ["all"], **split, "redis": None, "postgres": None} == profiles
    assert "COMPOSE_PROFILES=all" in (ROOT / ".env.example").read_text().splitlines()


@pytest.mark.parametrize("service", OURS)
def test_ports_are_those_that_the_process_listens_on(service, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    port = started(service).api_port
    assert str(port) == instruction("EXPOSE")
    published = [interpolated(each, {}) for each in SERVICES[service].get("ports", [])]
    assert ([f"3333:{port}"] if service in ("outpost", "api") else []) == published


@pytest.mark.parametrize("service", OURS)
def test_each_service_waits_for_stores_that_have_a_health_check(service):
    needs = SERVICES[service]["depends_on"]
    assert {"redis": {"condition": "service_healthy"}, "postgres": {"condition": "service_healthy"}} == needs
    assert all("healthcheck" in SERVICES[name] for name in needs)


@pytest.mark.parametrize("service", OURS)
def test_a_stop_is_given_longer_than_the_process_takes(service):
    assert "30s" == SERVICES[service]["stop_grace_period"]
    assert "SIGTERM" == instruction("STOPSIGNAL")


def test_redis_is_as_durable_as_the_boot_check_asks():
    words = SERVICES["redis"]["command"]
    assert "redis-server" == words[0]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert given.pop("--maxmemory").endswith("gb")  # without it nothing limits the log
    assert {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"} == given
    assert "redis:7.0" == SERVICES["redis"]["image"]


def test_each_store_keeps_its_data_in_a_volume():
    mounts = {name: SERVICES[name]["volumes"] for name in ("redis", "postgres")}
    assert {"redis": ["redis:/data"], "postgres": ["postgres:/var/lib/postgresql"]} == mounts
    assert {"redis", "postgres"} == set(COMPOSE["volumes"])


def test_postgres_is_asked_about_the_database_that_outpost_uses():
    given = SERVICES["postgres"]["environment"]
    assert ["outpost", "outpost"] == [given["POSTGRES_USER"], given["POSTGRES_DB"]]
    assert ["CMD", "pg_isready", "-U", "outpost", "-d", "outpost"] == SERVICES["postgres"]["healthcheck"]["test"]


def test_the_image_installs_by_the_lock_and_runs_as_somebody_who_is_not_root():
    names = [name for name, _ in instructions()]
    assert ["FROM", "python:3.11-slim"] == list(instructions()[0])
    [install] = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert "-c requirements.lock '.[" in install
    user = instruction("USER")
    assert any(
        name == "RUN" and rest.startswith("useradd") and rest.endswith(user) for name, rest in instructions()
    )
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))


def test_the_build_gets_every_file_that_it_copies_and_that_the_package_names():
    copied = {
        word.rstrip("/") for name, rest in instructions() if name == "COPY" for word in shlex.split(rest)[:-1]
    }
    assert all((ROOT / word).exists() for word in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    project = (ROOT / "pyproject.toml").read_text()
    assert 'readme = "README.md"' in project
    assert 'license-files = ["LICENSE"]' in project


@pytest.fixture
def answering() -> Iterator[tuple[int, list[int], list[str]]]:
    """A server whose next status can be chosen, and the paths it was asked for."""
    statuses, paths = [200], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(statuses[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, statuses, paths
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_image_is_healthy_when_healthz_says_so(answering, status, code):
    port, statuses, paths = answering
    statuses[0] = status
    program, *words = health_command()
    assert "python" == program
    proxied = {"API_PORT": str(port), "http_proxy": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    assert code == subprocess.run([sys.executable, *words], env=proxied, check=False, timeout=60).returncode
    assert ["/healthz"] == paths


def test_the_image_is_unhealthy_while_nothing_listens():
    _, *words = health_command()
    ran = subprocess.run(
        [sys.executable, *words], env={"API_PORT": "1"}, check=False, capture_output=True, timeout=60
    )
    assert 1 == ran.returncode


def test_the_health_check_asks_where_the_process_listens_if_nothing_is_set():
    nodes = ast.walk(ast.parse(health_command()[2]))
    assert Settings().api_port in [node.value for node in nodes if isinstance(node, ast.Constant)]


class Well:
    """A process with one worker that runs."""

    def workers(self) -> dict[str, bool]:
        return {"worker": True}

    def obstacles(self) -> list[str]:
        return []


async def test_healthz_is_a_route_of_every_role():
    log = client.open_log(client.RedisAddress("127.0.0.1", port=1))
    probes = api.Probes(settings=Settings(), log=log, store=None, health=Well(), now_ms=lambda: 0)
    transport = httpx.ASGITransport(app=api.build_health(probes))
    async with httpx.AsyncClient(transport=transport, base_url="http://outpost") as http:
        assert 200 == (await http.get("/healthz")).status_code
    await log.close()
