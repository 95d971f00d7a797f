"""JupyterLab in a real browser, for tests and for the measurement of how fast a playground answers."""

import contextlib
import functools
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update".split()
MOVE = """([image, handle, key]) => new Promise(done => {
    const before = image.src, start = performance.now();
    const look = () => {
        const shown = () => requestAnimationFrame(() => done(performance.now() - start));
        if (image.src !== before) image.decode().then(shown);
        else if (performance.now() - start > 4000) done(-1);
        else setTimeout(look, 1);
    };
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: key, bubbles: true, cancelable: true}));
    look();
})"""
SHADES = """image => {
    const canvas = document.createElement('canvas'), width = image.naturalWidth, height = image.naturalHeight;
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext('2d').drawImage(image, 0, 0);
    const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    return new Set(pixels.filter((value, i) => i % 4 == 0)).size;
}"""
SCROLL = """() => {
    const page = document.querySelector('.jp-WindowedPanel-outer');
    page.scrollTop = page.scrollTop + page.clientHeight >= page.scrollHeight - 5 ? 0 : page.scrollTop + 600;
}"""

PANEL = ".widget-vbox:has(img)"


@functools.cache
def chromium():
    """The system's Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def lab(folder):
    """JupyterLab on a free port with a token, serving `folder`; yields the address with {} for the notebook."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    options += ["--ServerApp.ip=127.0.0.1", "--no-browser", "--allow-root", "--LabApp.news_url=None"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until_it_answers(server, f"http://127.0.0.1:{port}/api?token={token}")
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(30)


def until_it_answers(server, address, seconds=120):
    """Return when the server's process answers at the address; who ended or stays silent is told as an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(address, timeout=5).close()
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with exit code {server.returncode} before it answered.")
        time.sleep(0.1)
    raise TimeoutError(f"JupyterLab did not answer within {seconds} seconds.")


@contextlib.contextmanager
def page():
    """A page of headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": 1280, "height": 1000})
        finally:
            browser.close()


def run_all(tab):
    """Run → Run All Cells."""
    tab.keyboard.press("Escape")
    tab.locator(".jp-NotebookPanel .jp-Cell").first.click(timeout=60_000)
    tab.click('.lm-MenuBar-itemLabel:text-is("Run")')
    tab.click('.lm-Menu-itemLabel:text-is("Run All Cells")')


def playground(tab, address, notebook):
    """Open a notebook, run all its cells, and return its (last) playground once it is alive."""
    tab.goto(address.format(notebook), timeout=60_000)
    tab.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    tab.locator(".jp-Toolbar-item:has-text('Python 3') >> nth=0").wait_for(timeout=60_000)
    panel = tab.locator(PANEL)
    deadline, run_again = time.monotonic() + 180, 0
    while not panel.count():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{notebook}: no playground after three minutes")
        if time.monotonic() > run_again and not tab.locator('[data-status="busy"]').count():
            run_all(tab)  # and once more, should JupyterLab have been too busy opening the notebook to notice
            run_again = time.monotonic() + 20
        tab.evaluate(SCROLL)  # JupyterLab draws a cell when it is scrolled into view
        time.sleep(0.2)
    panel.last.scroll_into_view_if_needed()
    tab.wait_for_function("""() => !document.querySelector('[data-status="busy"]')""", timeout=120_000)
    return panel.last


def playgrounds(tab, address, path):
    """All playgrounds of a notebook, alive, in the order of the page; its stored outputs say how many there are."""
    playground(tab, address, path.name)
    panels, count = tab.locator(PANEL), path.read_text(encoding="utf-8").count('"<LivePanel: ')
    for _ in range(300):
        if panels.count() == count:
            return panels.all()
        tab.evaluate(SCROLL)
        time.sleep(0.2)
    raise TimeoutError(f"{path.name}: {panels.count()} of {count} playgrounds after a minute")


def latencies(tab, panel, presses=12):
    """Milliseconds from a key press on each slider to the changed picture on the screen."""
    found, image = [], panel.locator("img")
    for number in range(panel.locator(".noUi-handle").count()):
        handle = panel.locator(".noUi-handle").nth(number)
        for press in range(presses):
            key = "ArrowRight" if press % 4 < 2 else "ArrowLeft"
            took = tab.evaluate(MOVE, [image.element_handle(), handle.element_handle(), key])
            found += [took] if took > 0 else []  # −1: the slider stood at its end, or the picture is the same
            time.sleep(0.05)
    return found
