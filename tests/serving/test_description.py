"""The OpenAPI description: its examples work, schemathesis finds it true, and its page opens without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from tests.serving.running import Running, running


def test_its_examples_work(server: Running):
    with server.client() as client:
        found = client.get("/openapi.json").json()
        schemas = found["components"]["schemas"]
        many = client.post("/v1/predict", json=schemas["Rows"]["example"])
        assert many.status_code == 200
        assert len(many.json()["answers"]) == 3
        (parameter,) = found["paths"]["/v1/tasks/{task}/predict"]["post"]["parameters"]
        one = client.post(f"/v1/tasks/{parameter['example']}/predict", json=schemas["Question"]["example"])
        assert one.status_code == 200
        assert schemas["Source"]["example"]["delta"] in server.service.catalogue.folder.names()


def test_it_tells_the_limits(server: Running):
    with server.client() as client:
        found = client.get("/openapi.json").json()
    schemas, settings = found["components"]["schemas"], server.service.settings
    assert schemas["Rows"]["properties"]["rows"]["maxItems"] == settings.max_rows
    assert schemas["Row"]["properties"]["text"]["maxLength"] == settings.max_text
    assert "securitySchemes" not in found["components"]


@pytest.mark.slow
def test_schemathesis_finds_it_true(tiny_folder, known, folder, tmp_path):
    token = "a-token-of-the-tests"
    with running(tiny_folder, known, read=folder, token=token) as started:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{started.url}/openapi.json", "--checks", "all"),
                *("--max-examples", "30", "--seed", "1", "--header", f"Authorization: Bearer {token}"),
                "--generation-deterministic",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": "", "NO_COLOR": "1"},
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert started.service.batcher.waiting == 0


def test_the_page_opens_and_answers_its_own_example(server: Running, browser: Any):
    tab = browser.new_page()
    said: list[str] = []
    hosts: set[str] = set()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "inside"))
    tab.goto(f"{server.url}/docs")
    tab.locator(".opblock-summary-path", has_text="/v1/predict").first.click()
    tab.get_by_role("button", name="Execute").click()
    tab.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert '"answers"' in tab.locator(".live-responses-table").inner_text()
    assert said == []
    assert hosts <= {server.url.removeprefix("http://"), "inside"}
    tab.close()
