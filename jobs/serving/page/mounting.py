"""The page put into the application of the endpoint, at `/`."""

import os

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from jobs.serving.page.addresses import add_addresses
from jobs.serving.page.events import connect
from jobs.serving.page.guard import Guard
from jobs.serving.page.layout import STYLE, lay_out
from jobs.serving.page.shelf import Shelf
from jobs.serving.page.theme import page_theme
from jobs.serving.page.times import Times
from jobs.serving.page.wishes import Wishes
from jobs.serving.studio import Studio

MAX_EVENTS = 1000
"""That wait in Gradio's queue; the studio has a bound of its own for sounds."""


def mount_page(app: FastAPI, studio: Studio, shelf: Shelf | None = None) -> None:
    """Add the page, at `/`, and the addresses of its sounds to `app`.

    All other routes come before, since the page takes every address that is left; the application must not have
    started. Sounds and events are held in this process, so there is one of it.

    Args:
        app: of the endpoint.
        studio: makes the sounds.
        shelf: holds them; None: one within the usual bounds.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # this process asks nothing of any other server either
    shelf, times = Shelf() if shelf is None else shelf, Times()
    layout = lay_out(studio.classes(), studio.limits)
    with layout.page:
        connect(layout, Wishes(studio), shelf, times)
    layout.page.queue(api_open=False, max_size=MAX_EVENTS, default_concurrency_limit=None)
    add_addresses(app, shelf)
    gr.mount_gradio_app(
        app,
        layout.page,
        path="/",
        theme=page_theme(),
        css_paths=STYLE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=studio.limits.upload_bytes,
    )
    mount = app.router.routes[-1]
    assert isinstance(mount, Mount)
    mount.app = Guard(mount.app, studio.limits.upload_bytes)
