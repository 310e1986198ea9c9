"""What the page does when somebody presses, types or drags. Each callback is async and only awaits."""

import asyncio
import contextlib
import html
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from jobs.serving.page.cards import card_of, groups_of, stage_of
from jobs.serving.page.drawing import Wish, drawn, sentence_of
from jobs.serving.page.layout import EDIT, Layout
from jobs.serving.page.recordings import recording_of
from jobs.serving.page.shelf import Shelf, ShelvedSound
from jobs.serving.page.times import Times
from jobs.serving.page.visitors import visitor_in
from jobs.serving.page.wishes import Takes, Wishes, regions_in
from soundstorm.errors import SoundStormError
from soundstorm.generation.regions import Region

NO_COOKIE = "This page knows your sounds by a cookie: allow cookies for this address, and load the page again."
NOTHING_CHOSEN = "Choose a sound first: upload or record one, or press Edit at one of yours."
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
LONG: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def said(sentence: str) -> str:
    """A sentence for the reader, which a screen reader reads when it can."""
    return f'<p role="status">{html.escape(sentence)}</p>'


def warned(sentence: str) -> str:
    """Why something was not done, which a screen reader reads at once."""
    return f'<p role="alert">{html.escape(sentence)}</p>'


def visitor_of(request: gr.Request) -> str:
    """Who asks.

    Raises:
        SoundStormError: a browser without our cookie.
    """
    visitor = visitor_in(request.cookies)
    if visitor is None:
        raise SoundStormError(NO_COOKIE)
    return visitor


@dataclass(frozen=True)
class Actions:
    """What is done; each method's values are those of the components that `connect` names."""

    wishes: Wishes
    shelf: Shelf
    times: Times
    running: defaultdict[str, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    """For each tab of a browser, what stops the wishes that are being made."""

    def cost(self) -> str:
        """What sounds cost here."""
        return f"<p>{html.escape(self.times.sentence)}</p>"

    def cards(self, visitor: str) -> list[dict[str, Any]]:
        """Of a visitor's sounds."""
        return [card_of(sound) for sound in self.shelf.of(visitor)]

    async def load(self, request: gr.Request) -> tuple[Any, str]:
        """Cards and cost, when the page opens."""
        return self.cards(visitor_in(request.cookies) or ""), self.cost()

    async def make(self, wish_of: Callable[[str], Wish], request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """Status, cards and cost, while the sounds of a wish are made."""
        try:
            visitor = visitor_of(request)
            wish = wish_of(visitor)
        except SoundStormError as error:
            yield warned(sentence_of(error)), gr.skip(), gr.skip()
            return
        yield said(f"0 of {len(wish.seeds)} made."), gr.skip(), self.cost()
        shown, stop, tab = 0, asyncio.Event(), str(request.session_hash)
        self.running[tab].add(stop)
        try:
            async for progress in drawn(wish, visitor, self.shelf, self.times, stop):
                status = said(progress.sentence)
                if progress.is_over and progress.error:
                    status = warned(progress.error) + (said(progress.sentence) if progress.made else "")
                yield status, self.cards(visitor) if progress.made > shown else gr.skip(), self.cost()
                shown = progress.made
        finally:
            self.running[tab].discard(stop)
            if not self.running[tab]:
                del self.running[tab]

    async def stop(self, request: gr.Request) -> Any:
        """Status, after a press on Stop; what is being made in this tab says itself that it has stopped."""
        running = self.running.get(str(request.session_hash))
        if not running:
            return said("Nothing is in the making.")
        for stop in running:
            stop.set()
        return gr.skip()

    async def keep(self, event: gr.EventData, request: gr.Request) -> Any:
        """Cards, after one was marked as kept or no longer."""
        visitor = visitor_in(request.cookies) or ""
        with contextlib.suppress(SoundStormError):  # it is gone, which the cards show
            self.shelf.keep(visitor, str(event.id), bool(event.kept))
        return self.cards(visitor)

    async def remove(self, event: gr.EventData, request: gr.Request) -> Any:
        """Cards, after one was taken away."""
        visitor = visitor_in(request.cookies) or ""
        with contextlib.suppress(SoundStormError):  # it is gone already
            self.shelf.remove(visitor, str(event.id))
        return self.cards(visitor)

    async def choose(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Status, stage, its sound's id, class, stretches, seconds to keep and tab, for a sound that is to be
        edited."""
        try:
            sound = self.shelf.get(visitor_of(request), str(event.id))
        except SoundStormError as error:
            return warned(sentence_of(error)), *[gr.skip()] * 5, gr.Tabs(selected=EDIT)
        return said("Ready to edit."), *self._on_stage(sound), gr.Tabs(selected=EDIT)

    async def bring(self, path: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Status, cards, upload, and what `choose` gives of the stage, for an uploaded or recorded sound."""
        if path is None:
            return tuple([gr.skip()] * 8)
        studio = self.wishes.studio
        try:
            visitor = visitor_of(request)
            sound = await recording_of(Path(path), studio.sample_rate, studio.limits)
        except SoundStormError as error:
            return warned(sentence_of(error)), gr.skip(), None, *[gr.skip()] * 5
        self.shelf.put(visitor, sound)
        return said("Ready to edit."), self.cards(visitor), None, *self._on_stage(sound)

    async def mark(self, event: gr.EventData, chosen: str | None, request: gr.Request) -> tuple[Any, Any]:
        """Stretches as text, and stage, after a drag."""
        regions = [Region(float(start), float(end)) for start, end in event.regions]
        return ", ".join(map(str, regions)), self._marked(regions, chosen, request)

    async def type(self, text: str, chosen: str | None, request: gr.Request) -> Any:
        """The stage, while stretches are typed; what is not yet one is told of when it is used."""
        try:
            return self._marked(regions_in(text), chosen, request)
        except SoundStormError:
            return gr.skip()

    def _marked(self, regions: list[Region], chosen: str | None, request: gr.Request) -> Any:
        try:
            return stage_of(self.shelf.get(visitor_of(request), chosen), regions)
        except SoundStormError:
            return gr.skip()

    async def group(self, name: str) -> Any:
        """The classes of a group."""
        return gr.Dropdown(choices=groups_of(self.wishes.studio.classes())[name], value=None)

    def _on_stage(self, sound: ShelvedSound) -> tuple[Any, ...]:
        begin_s = min(1.0, round(sound.picture.duration_s / 2, 2))
        return stage_of(sound, is_chosen=True), sound.id, sound.category, "", begin_s


def connect(layout: Layout, wishes: Wishes, shelf: Shelf, times: Times) -> None:
    """Give every part of the page what it does."""
    actions, new, edit = Actions(wishes, shelf, times), layout.new, layout.edit
    outcome = [layout.results, layout.cost]
    layout.page.load(actions.load, None, outcome, **QUICK)
    new.group.change(actions.group, new.group, new.category, **QUICK)
    layout.results.keep_sound(actions.keep, None, layout.results, **QUICK)
    layout.results.remove_sound(actions.remove, None, layout.results, **QUICK)
    on_stage = [edit.stage, edit.chosen, edit.category, edit.regions, edit.begin]
    layout.results.edit_sound(actions.choose, None, [edit.status, *on_stage, layout.tabs], **QUICK)
    edit.recording.change(
        actions.bring, edit.recording, [edit.status, layout.results, edit.recording, *on_stage], **QUICK
    )
    edit.stage.mark_stretches(actions.mark, edit.chosen, [edit.regions, edit.stage], **QUICK)
    edit.regions.input(actions.type, [edit.regions, edit.chosen], edit.stage, trigger_mode="always_last", **QUICK)
    _connect_new(layout, actions)
    _connect_edits(layout, actions)


def _connect_new(layout: Layout, actions: Actions) -> None:
    new = layout.new
    outcome = [new.status, layout.results, layout.cost]

    async def make(
        category: Any, duration_s: Any, loop: Any, count: Any, seed: Any, is_new: Any, request: gr.Request
    ) -> AsyncIterator[Any]:
        def wish_of(_: str) -> Wish:
            takes = Takes(count=count, seed=seed, is_new=is_new)
            return actions.wishes.new(category, duration_s, takes, loop=loop)

        async for shown in actions.make(wish_of, request):
            yield shown

    inputs = [new.category, new.duration, new.loop, *new.takes.inputs]
    triggers = [new.make.click, new.duration.submit, new.takes.seed.submit]
    gr.on(triggers, make, inputs, outcome, **LONG)
    new.stop.click(actions.stop, None, new.status, **QUICK)


def _connect_edits(layout: Layout, actions: Actions) -> None:
    edit, wishes = layout.edit, actions.wishes
    outcome = [edit.status, layout.results, layout.cost]
    common = [edit.chosen, edit.category, *edit.takes.inputs]

    def press(button: gr.Button, wish_of: Callable[..., Wish], fields: list[Any], others: list[Any]) -> None:
        """Let a button, and the Enter key in some fields, edit the sound on the stage."""

        async def run(
            request: gr.Request, chosen: Any, category: Any, count: Any, seed: Any, is_new: Any, *values: Any
        ) -> AsyncIterator[Any]:
            def wish(visitor: str) -> Wish:
                if chosen is None:
                    raise SoundStormError(NOTHING_CHOSEN)
                takes = Takes(count=count, seed=seed, is_new=is_new)
                return wish_of(actions.shelf.get(visitor, chosen), category, *values, takes)

            async for shown in actions.make(wish, request):
                yield shown

        triggers = [button.click, *(field.submit for field in others)]
        gr.on(triggers, run, common + fields, outcome, **LONG)

    def mended(sound: ShelvedSound, category: Any, text: str, takes: Takes) -> Wish:
        return wishes.mended(sound, category, regions_in(text), takes)

    press(edit.mend, mended, [edit.regions], [edit.regions])
    press(edit.vary, wishes.varied, [edit.strength, edit.kept_levels], [edit.kept_levels])
    press(edit.go_on, wishes.continued, [edit.begin, edit.duration], [edit.begin, edit.duration])
    press(edit.loop, wishes.looped, [], [])
    edit.stop.click(actions.stop, None, edit.status, **QUICK)
