"""Components of the page; `events` has their handlers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from jobs.generation.options import DURATION_S, STRENGTH
from jobs.serving.limits import Limits
from jobs.serving.page.cards import groups_of
from jobs.serving.page.forms import MAX_COUNT
from soundstorm.editing.editor import KEPT_LEVELS

TITLE = "SoundStorm studio"
LEAD = (
    "Generate environmental sound, listen, and keep what you like. Replace a part, vary, continue or loop a sound. "
    "Each sound has a recipe that reproduces it exactly."
)
ASSETS = Path(__file__).parent / "assets"
STYLE = ASSETS / "page.css"
NEW, EDIT = "new", "edit"


@dataclass(kw_only=True, frozen=True)
class TakesForm:
    """Number of sounds and seed."""

    count: gr.Slider
    seed: gr.Number
    is_new: gr.Checkbox

    @property
    def inputs(self) -> list[Any]:
        """In the order of `Takes`."""
        return [self.count, self.seed, self.is_new]


@dataclass(kw_only=True, frozen=True)
class NewForm:
    """Form for new sound."""

    group: gr.Radio
    category: gr.Dropdown
    duration: gr.Number
    loop: gr.Checkbox
    takes: TakesForm
    make: gr.Button
    stop: gr.Button
    status: gr.HTML


@dataclass(kw_only=True, frozen=True)
class EditForm:
    """Form for editing a sound."""

    recording: gr.Audio
    editor: gr.HTML
    chosen: gr.State
    """Id of the sound in the editor."""
    category: gr.Dropdown
    takes: TakesForm
    regions: gr.Textbox
    inpaint: gr.Button
    strength: gr.Slider
    kept_levels: gr.Number
    vary: gr.Button
    begin: gr.Number
    duration: gr.Number
    continue_: gr.Button
    loop: gr.Button
    stop: gr.Button
    status: gr.HTML


@dataclass(kw_only=True, frozen=True)
class Layout:
    """All components of the page."""

    page: gr.Blocks
    tabs: gr.Tabs
    new: NewForm
    edit: EditForm
    results: gr.HTML
    cost: gr.HTML


def lay_out(categories: Sequence[str], limits: Limits) -> Layout:
    """Build the page for the classes of a model, without handlers."""
    groups = groups_of(list(categories))
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>{TITLE}</h1><p>{LEAD}</p>", elem_classes="ss-title", apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=340):
                with gr.Tabs(selected=NEW) as tabs:
                    with gr.Tab("New sound", id=NEW):
                        new = _new_form(groups, limits)
                    with gr.Tab("Edit a sound", id=EDIT, render_children=True):
                        edit = _edit_form(groups, limits)
                cost = gr.HTML(elem_classes="ss-cost", apply_default_css=False)
            with gr.Column(scale=3, min_width=340):
                results = _script_component("results", value=[])
    return Layout(page=page, tabs=tabs, new=new, edit=edit, results=results, cost=cost)


def _new_form(groups: dict[str, list[tuple[str, str]]], limits: Limits) -> NewForm:
    names = list(groups)
    group = gr.Radio(
        [(name[:1].upper() + name[1:], name) for name in names], value=names[0], label="Group", visible=len(names) > 1
    )
    category = gr.Dropdown(groups[names[0]], value=None, label="Class", info="Type a part of its name, or choose.")
    duration = gr.Number(
        DURATION_S, label="Length in seconds", info=f"At most {limits.longest_s:g}.", elem_id="new-length"
    )
    loop = gr.Checkbox(False, label="Loop without a click")
    takes = _takes_form("new", 4)
    with gr.Row():
        make = gr.Button("Generate", variant="primary", elem_id="make")
        stop = gr.Button("Stop", min_width=80)
    return NewForm(
        group=group, category=category, duration=duration, loop=loop, takes=takes, make=make, stop=stop,
        status=_status("new-status"),
    )  # fmt: skip


def _edit_form(groups: dict[str, list[tuple[str, str]]], limits: Limits) -> EditForm:
    recording = gr.Audio(
        sources=["upload", "microphone"], type="filepath", label="Upload or record a sound", editable=False,
        elem_id="recording",
    )  # fmt: skip
    chosen = gr.State(None)
    editor = _script_component("editor", value=None)
    category = gr.Dropdown(
        next(iter(groups.values())), value=None, label="Class of this sound", info="New sound is of this class."
    )
    takes = _takes_form("edit", 2)
    with gr.Tabs():
        with gr.Tab("Replace"):
            regions = gr.Textbox(
                label="Regions to replace, in seconds", placeholder="1.2-2.0, 3.1-3.6", elem_id="regions",
                info="Drag over the picture, or type. All other samples stay unchanged.",
            )  # fmt: skip
            inpaint = gr.Button("Replace", variant="primary", elem_id="inpaint")
        with gr.Tab("Vary"):
            strength = gr.Slider(0, 1, STRENGTH, step=0.05, label="Fraction that is generated anew")
            kept_levels = gr.Number(
                KEPT_LEVELS, precision=0, label="Levels to keep elsewhere", info="More levels keep more detail."
            )
            vary = gr.Button("Make variations", variant="primary", elem_id="vary")
        with gr.Tab("Continue"):
            begin = gr.Number(1.0, label="Seconds to keep from the beginning")
            duration = gr.Number(DURATION_S, label="Total length in seconds", info=f"At most {limits.longest_s:g}.")
            continue_ = gr.Button("Continue", variant="primary", elem_id="continue")
        with gr.Tab("Loop"):
            gr.Markdown("Half a second at the end and half a second at the beginning are replaced.")
            loop = gr.Button("Make a loop", variant="primary", elem_id="loop")
    stop = gr.Button("Stop")
    return EditForm(
        recording=recording, editor=editor, chosen=chosen, category=category, takes=takes, regions=regions,
        inpaint=inpaint, strength=strength, kept_levels=kept_levels, vary=vary, begin=begin, duration=duration,
        continue_=continue_, loop=loop, stop=stop, status=_status("edit-status"),
    )  # fmt: skip


def _takes_form(name: str, count: int) -> TakesForm:
    return TakesForm(
        count=gr.Slider(1, MAX_COUNT, count, step=1, label="How many", buttons=[], elem_id=f"{name}-count"),
        seed=gr.Number(0, precision=0, label="Seed", info="The same seed gives the same sound."),
        is_new=gr.Checkbox(True, label="A new seed each time"),
    )


def _status(name: str) -> gr.HTML:
    return gr.HTML("", elem_id=name, elem_classes="ss-status", apply_default_css=False)


def _script_component(name: str, **props: Any) -> gr.HTML:
    """A component that the browser renders from `value` with the script and the template of that name."""
    script = (ASSETS / "shared.js").read_text() + (ASSETS / f"{name}.js").read_text()
    return gr.HTML(
        html_template=(ASSETS / f"{name}.html").read_text(),
        js_on_load=script,
        apply_default_css=False,
        elem_id=name,
        **props,
    )
