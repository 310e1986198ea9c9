"""Theme of the page: the colours of the reports, light and dark, and system fonts."""

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
PAGE, CARD, LINE, TEXT, SOFT, ACCENT = "#f5f6f8", "#ffffff", "#d5dae2", "#1d232c", "#596373", "#0f5fa6"
DARK_PAGE, DARK_CARD, DARK_LINE, DARK_TEXT, DARK_SOFT, DARK_ACCENT = (
    "#101318", "#181c23", "#353d4a", "#e8ebf0", "#9fa9b8", "#6cb6f2",
)  # fmt: skip


def page_theme() -> gr.themes.Base:
    """The theme of the page, without web fonts."""
    theme = gr.themes.Base(
        font=list(map(gr.themes.Font, FONTS)),
        font_mono=list(map(gr.themes.Font, MONOSPACE)),
        radius_size=gr.themes.sizes.radius_md,
    )
    both = {
        "body_background_fill": (PAGE, DARK_PAGE),
        "body_text_color": (TEXT, DARK_TEXT),
        "body_text_color_subdued": (SOFT, DARK_SOFT),
        "background_fill_primary": (CARD, DARK_CARD),
        "background_fill_secondary": (PAGE, DARK_PAGE),
        "border_color_primary": (LINE, DARK_LINE),
        "border_color_accent": (ACCENT, DARK_ACCENT),
        "color_accent_soft": ("#e3eef8", "#1d3145"),
        "block_background_fill": (CARD, DARK_CARD),
        "block_border_color": (LINE, DARK_LINE),
        "block_label_background_fill": (CARD, DARK_CARD),
        "block_label_text_color": (TEXT, DARK_TEXT),
        "block_title_text_color": (TEXT, DARK_TEXT),
        "block_info_text_color": (SOFT, DARK_SOFT),
        "input_background_fill": (PAGE, DARK_PAGE),
        "input_border_color": (LINE, DARK_LINE),
        "input_border_color_focus": (ACCENT, DARK_ACCENT),
        "input_placeholder_color": (SOFT, DARK_SOFT),
        "checkbox_background_color": (CARD, DARK_PAGE),
        "checkbox_background_color_selected": (ACCENT, "#2f7fc0"),
        "checkbox_border_color": (SOFT, DARK_SOFT),
        "checkbox_border_color_selected": (ACCENT, DARK_ACCENT),
        "checkbox_label_background_fill": (PAGE, DARK_PAGE),
        "checkbox_label_background_fill_hover": (PAGE, DARK_LINE),
        "checkbox_label_background_fill_selected": ("#e3eef8", "#1d3145"),
        "checkbox_label_border_color": (LINE, DARK_LINE),
        "checkbox_label_text_color": (TEXT, DARK_TEXT),
        "checkbox_label_text_color_selected": (TEXT, DARK_TEXT),
        "slider_color": (ACCENT, DARK_ACCENT),
        "button_primary_background_fill": (ACCENT, DARK_ACCENT),
        "button_primary_background_fill_hover": ("#0b4a83", "#93caf6"),
        "button_primary_border_color": (ACCENT, DARK_ACCENT),
        "button_primary_text_color": ("#ffffff", DARK_PAGE),
        "button_primary_text_color_hover": ("#ffffff", DARK_PAGE),
        "button_secondary_background_fill": (CARD, DARK_CARD),
        "button_secondary_background_fill_hover": (PAGE, DARK_LINE),
        "button_secondary_border_color": (LINE, DARK_LINE),
        "button_secondary_text_color": (TEXT, DARK_TEXT),
        "link_text_color": (ACCENT, DARK_ACCENT),
    }
    settings = {name: light for name, (light, _) in both.items()}
    settings |= {f"{name}_dark": dark for name, (_, dark) in both.items()}
    return theme.set(**settings, color_accent=ACCENT, block_border_width="1px", input_border_width="1px")
