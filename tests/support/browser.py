"""Headless Chromium: the text and a screenshot of a page after its scripts have run."""

import asyncio
import base64
import itertools
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from running import kill_session


def read_page(url: str, headers: Mapping[str, str], expected: str, screenshot: Path, seconds: int = 60) -> str:
    """The text of a page once it contains ``expected``, or after so many seconds; saves a screenshot of that moment."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--window-size=1600,1400", f"--user-data-dir={screenshot}.profile", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stderr
            address = next(match[1] for line in process.stderr if (match := re.search(r"ws://([\d.]+:\d+)/", line)))
            return asyncio.run(_read(address, url, headers, expected, screenshot, seconds))
        finally:
            kill_session(process)


async def _read(
    address: str, url: str, headers: Mapping[str, str], expected: str, screenshot: Path, seconds: int
) -> str:
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://{address}/json/new") as response:
            tab = (await response.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(tab, max_msg_size=0) as socket:
            numbers = itertools.count(1)

            async def call(method: str, **parameters: Any) -> Any:
                number = next(numbers)
                await socket.send_json({"id": number, "method": method, "params": parameters})
                while (message := await socket.receive_json()).get("id") != number:
                    pass
                return message["result"]

            await call("Network.enable")
            await call("Network.setExtraHTTPHeaders", headers=dict(headers))
            await call("Page.navigate", url=url)
            text = ""
            for _ in range(seconds):
                await asyncio.sleep(1)
                evaluated = await call("Runtime.evaluate", expression="document.body.innerText")
                text = evaluated["result"].get("value", "")
                if expected in text:
                    break
            screenshot.write_bytes(base64.b64decode((await call("Page.captureScreenshot"))["data"]))
            return text
