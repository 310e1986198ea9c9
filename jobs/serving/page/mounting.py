"""Mounts the page at `/` of the endpoint."""

import os

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from jobs.serving.page.events import connect
from jobs.serving.page.forms import FormParser
from jobs.serving.page.generation_times import GenerationTimes
from jobs.serving.page.layout import STYLE, lay_out
from jobs.serving.page.middleware import PageMiddleware
from jobs.serving.page.sound_routes import add_sound_routes
from jobs.serving.page.sound_store import SoundStore
from jobs.serving.page.theme import page_theme
from jobs.serving.sound_service import SoundService

MAX_EVENTS = 1000
"""Maximum length of Gradio's queue; the service itself limits requests for sound."""


def mount_page(app: FastAPI, service: SoundService, store: SoundStore | None = None) -> None:
    """Add the page, at `/`, and the addresses of its sounds to `app`.

    All other routes must be added before, since the page handles all remaining paths, and the application must not have
    started. Sounds and events are in the memory of this process, so there can be only one.

    Args:
        app: the endpoint.
        service: generates the sounds.
        store: stores them; None: a store with the default limits.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # no requests to other servers
    store, times = SoundStore() if store is None else store, GenerationTimes()
    layout = lay_out(service.classes(), service.limits)
    with layout.page:
        connect(layout, FormParser(service), store, times)
    layout.page.queue(api_open=False, max_size=MAX_EVENTS, default_concurrency_limit=None)
    add_sound_routes(app, store)
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
        max_file_size=service.limits.upload_bytes,
    )
    mount = app.router.routes[-1]
    assert isinstance(mount, Mount)
    mount.app = PageMiddleware(mount.app, service.limits.upload_bytes)
