"""A picture of the web page with the model's answer about a clip: python examples/page_picture.py CLIP OUT.png [MODEL]

Needs the extra `dev`, and a chromium that is installed.
"""

import shutil
import sys
import threading
import time

import uvicorn
from playwright.sync_api import sync_playwright

from omni import load
from omni.serve.server import configuration
from omni.serve.settings import Settings

clip, out, name = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["default"])[0]
server = uvicorn.Server(configuration(Settings(port=0), *load(name)))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.1)
port = server.servers[0].sockets[0].getsockname()[1]
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
    page = browser.new_page(viewport={"width": 1180, "height": 800})
    page.goto(f"http://127.0.0.1:{port}")
    page.set_input_files("#file", clip)
    page.click("#send")
    page.wait_for_selector("#label:text-matches('.')", timeout=120_000)
    page.click("#senses summary")
    page.wait_for_selector("#senses-of table", timeout=120_000)
    page.click("#reasons button >> nth=0")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # the player's controls fade
    page.screenshot(path=out, full_page=True)
server.should_exit = True
