"""Event handlers of the page. All are async and never block the event loop."""

import asyncio
import contextlib
import html
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from jobs.serving.page.cards import card_of, editor_state, groups_of
from jobs.serving.page.forms import FormParser, Takes, regions_in
from jobs.serving.page.generation_jobs import GenerationJob, run_job, sentence_of
from jobs.serving.page.generation_times import GenerationTimes
from jobs.serving.page.layout import EDIT, Layout
from jobs.serving.page.recordings import recording_of
from jobs.serving.page.sound_store import SoundStore, StoredSound
from jobs.serving.page.visitors import visitor_in
from soundstorm.editing.regions import Region
from soundstorm.errors import SoundStormError

NO_COOKIE = "This page needs a cookie to find your sounds: allow cookies for this address, and reload the page."
NOTHING_SELECTED = "Select a sound first: upload or record one, or press Edit at one of yours."
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
STREAMING: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def status_html(sentence: str) -> str:
    """A message in HTML, which a screen reader reads when it is idle."""
    return f'<p role="status">{html.escape(sentence)}</p>'


def alert_html(sentence: str) -> str:
    """An error in HTML, which a screen reader reads at once."""
    return f'<p role="alert">{html.escape(sentence)}</p>'


def visitor_of(request: gr.Request) -> str:
    """The visitor of a request.

    Raises:
        SoundStormError: the browser did not send the cookie.
    """
    visitor = visitor_in(request.cookies)
    if visitor is None:
        raise SoundStormError(NO_COOKIE)
    return visitor


@dataclass(frozen=True)
class Handlers:
    """Event handlers; `connect` assigns their inputs and outputs."""

    forms: FormParser
    store: SoundStore
    times: GenerationTimes
    running: defaultdict[str, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    """For each browser tab, the events that stop its running jobs."""

    def cost(self) -> str:
        """The generation times in HTML."""
        return f"<p>{html.escape(self.times.sentence)}</p>"

    def cards(self, visitor: str) -> list[dict[str, Any]]:
        """The cards of a visitor."""
        return [card_of(sound) for sound in self.store.of(visitor)]

    async def load(self, request: gr.Request) -> tuple[Any, str]:
        """Page load: returns cards and generation times."""
        return self.cards(visitor_in(request.cookies) or ""), self.cost()

    async def make(self, job_of: Callable[[str], GenerationJob], request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Run a job; yields status, cards and generation times."""
        try:
            visitor = visitor_of(request)
            job = job_of(visitor)
        except SoundStormError as error:
            yield alert_html(sentence_of(error)), gr.skip(), gr.skip()
            return
        yield status_html(f"0 of {len(job.seeds)} generated."), gr.skip(), self.cost()
        shown, stop, tab = 0, asyncio.Event(), str(request.session_hash)
        self.running[tab].add(stop)
        try:
            async for progress in run_job(job, visitor, self.store, self.times, stop):
                status = status_html(progress.sentence)
                if progress.is_over and progress.error:
                    status = alert_html(progress.error) + (status_html(progress.sentence) if progress.made else "")
                yield status, self.cards(visitor) if progress.made > shown else gr.skip(), self.cost()
                shown = progress.made
        finally:
            self.running[tab].discard(stop)
            if not self.running[tab]:
                del self.running[tab]

    async def stop(self, request: gr.Request) -> Any:
        """Stop the jobs of this tab; returns the status if there are none, otherwise the jobs report it."""
        running = self.running.get(str(request.session_hash))
        if not running:
            return status_html("Nothing is being generated.")
        for stop in running:
            stop.set()
        return gr.skip()

    async def keep(self, event: gr.EventData, request: gr.Request) -> Any:
        """Mark or unmark a sound as kept; returns the cards."""
        visitor = visitor_in(request.cookies) or ""
        with contextlib.suppress(SoundStormError):  # the sound has expired
            self.store.keep(visitor, str(event.id), bool(event.kept))
        return self.cards(visitor)

    async def remove(self, event: gr.EventData, request: gr.Request) -> Any:
        """Remove a sound; returns the cards."""
        visitor = visitor_in(request.cookies) or ""
        with contextlib.suppress(SoundStormError):  # the sound has expired
            self.store.remove(visitor, str(event.id))
        return self.cards(visitor)

    async def choose(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Select a sound to edit; returns status, editor, id, class, regions, seconds to keep and tab."""
        try:
            sound = self.store.get(visitor_of(request), str(event.id))
        except SoundStormError as error:
            return alert_html(sentence_of(error)), *[gr.skip()] * 5, gr.Tabs(selected=EDIT)
        return status_html("Ready to edit."), *self._editor_values(sound), gr.Tabs(selected=EDIT)

    async def upload(self, path: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Add an uploaded or recorded sound; returns status, cards, upload field and the values of the editor."""
        if path is None:
            return tuple([gr.skip()] * 8)
        service = self.forms.service
        try:
            visitor = visitor_of(request)
            sound = await recording_of(Path(path), service.sample_rate, service.limits)
        except SoundStormError as error:
            return alert_html(sentence_of(error)), gr.skip(), None, *[gr.skip()] * 5
        self.store.put(visitor, sound)
        return status_html("Ready to edit."), self.cards(visitor), None, *self._editor_values(sound)

    async def mark(self, event: gr.EventData, chosen: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Regions were marked in the picture; returns them as text, and the editor."""
        regions = [Region(float(start), float(end)) for start, end in event.regions]
        return ", ".join(map(str, regions)), self._marked(regions, chosen, request)

    async def type(self, text: str, chosen: str | None, request: gr.Request) -> Any:
        """Regions are typed; returns the editor. Invalid text is reported when it is used."""
        try:
            return self._marked(regions_in(text), chosen, request)
        except SoundStormError:
            return gr.skip()

    def _marked(self, regions: list[Region], chosen: str | None, request: gr.Request) -> Any:
        try:
            return editor_state(self.store.get(visitor_of(request), chosen), regions)
        except SoundStormError:
            return gr.skip()

    async def group(self, name: str) -> Any:
        """A group was selected; returns its classes."""
        return gr.Dropdown(choices=groups_of(self.forms.service.classes())[name], value=None)

    def _editor_values(self, sound: StoredSound) -> tuple[Any, ...]:
        begin_s = min(1.0, round(sound.picture.duration_s / 2, 2))
        return editor_state(sound, is_chosen=True), sound.id, sound.category, "", begin_s


def connect(layout: Layout, forms: FormParser, store: SoundStore, times: GenerationTimes) -> None:
    """Connect the components of the page with their handlers."""
    handlers, new, edit = Handlers(forms, store, times), layout.new, layout.edit
    outcome = [layout.results, layout.cost]
    layout.page.load(handlers.load, None, outcome, **QUICK)
    new.group.change(handlers.group, new.group, new.category, **QUICK)
    layout.results.keep_sound(handlers.keep, None, layout.results, **QUICK)
    layout.results.remove_sound(handlers.remove, None, layout.results, **QUICK)
    editor_outputs = [edit.editor, edit.chosen, edit.category, edit.regions, edit.begin]
    layout.results.edit_sound(handlers.choose, None, [edit.status, *editor_outputs, layout.tabs], **QUICK)
    edit.recording.change(
        handlers.upload, edit.recording, [edit.status, layout.results, edit.recording, *editor_outputs], **QUICK
    )
    edit.editor.mark_stretches(handlers.mark, edit.chosen, [edit.regions, edit.editor], **QUICK)
    edit.regions.input(handlers.type, [edit.regions, edit.chosen], edit.editor, trigger_mode="always_last", **QUICK)
    _connect_new(layout, handlers)
    _connect_edits(layout, handlers)


def _connect_new(layout: Layout, handlers: Handlers) -> None:
    new = layout.new
    outcome = [new.status, layout.results, layout.cost]

    async def make(
        category: Any, duration_s: Any, loop: Any, count: Any, seed: Any, is_new: Any, request: gr.Request
    ) -> AsyncIterator[Any]:
        def job_of(_: str) -> GenerationJob:
            takes = Takes(count=count, seed=seed, is_new=is_new)
            return handlers.forms.new(category, duration_s, takes, loop=loop)

        async for shown in handlers.make(job_of, request):
            yield shown

    inputs = [new.category, new.duration, new.loop, *new.takes.inputs]
    triggers = [new.make.click, new.duration.submit, new.takes.seed.submit]
    gr.on(triggers, make, inputs, outcome, **STREAMING)
    new.stop.click(handlers.stop, None, new.status, **QUICK)


def _connect_edits(layout: Layout, handlers: Handlers) -> None:
    edit, forms = layout.edit, handlers.forms
    outcome = [edit.status, layout.results, layout.cost]
    common = [edit.chosen, edit.category, *edit.takes.inputs]

    def press(button: gr.Button, job_of: Callable[..., GenerationJob], fields: list[Any], others: list[Any]) -> None:
        """Run a job with the selected sound on a click, or on Enter in the fields `others`."""

        async def run(
            request: gr.Request, chosen: Any, category: Any, count: Any, seed: Any, is_new: Any, *values: Any
        ) -> AsyncIterator[Any]:
            def job(visitor: str) -> GenerationJob:
                if chosen is None:
                    raise SoundStormError(NOTHING_SELECTED)
                takes = Takes(count=count, seed=seed, is_new=is_new)
                return job_of(handlers.store.get(visitor, chosen), category, *values, takes)

            async for shown in handlers.make(job, request):
                yield shown

        triggers = [button.click, *(field.submit for field in others)]
        gr.on(triggers, run, common + fields, outcome, **STREAMING)

    def inpainted(sound: StoredSound, category: Any, text: str, takes: Takes) -> GenerationJob:
        return forms.inpainted(sound, category, regions_in(text), takes)

    press(edit.inpaint, inpainted, [edit.regions], [edit.regions])
    press(edit.vary, forms.varied, [edit.strength, edit.kept_levels], [edit.kept_levels])
    press(edit.continue_, forms.continued, [edit.begin, edit.duration], [edit.begin, edit.duration])
    press(edit.loop, forms.looped, [], [])
    edit.stop.click(handlers.stop, None, edit.status, **QUICK)
