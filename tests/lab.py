"""A JupyterLab with its own settings, and a notebook in it that a browser has run."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

from lib.files import ROOT

TOKEN = "for-this-test"
SETTINGS = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
    "IPYTHONDIR",
)


@contextmanager
def jupyterlab(folder):
    """Serves `folder` on the loopback; yields the address."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        own, address = Path(own), f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--ServerApp.root_dir={folder}",
            f"--IdentityProvider.token={TOKEN}",
            "--LabApp.expose_app_in_browser=True",
        ]
        with open(own / "log", "w") as log:
            places = {name: str(own / name) for name in SETTINGS}
            server = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | places | {"PYTHONPATH": str(ROOT)}
            )
        try:
            wait_for(address, own / "log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address, log):
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).read()
            return
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(log.read_text()[-2000:])


def open_notebook(browser, address, name):
    """The page of a notebook whose cells are being run, and a list of what went wrong in it."""
    page, wrong = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            wrong.append(request.url)
            if request.url.startswith("http") and not request.url.startswith(address)
            else None
        ),
    )
    page.set_default_timeout(90_000)
    page.goto(f"{address}/lab/tree/{name}?token={TOKEN}")
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")  # not waited for
    return page, wrong
