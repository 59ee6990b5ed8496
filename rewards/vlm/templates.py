"""Questions as files: text with $placeholders."""

from collections.abc import Collection
from pathlib import Path
from string import Template

SHIPPED = Path(__file__).with_name("templates")


def load_template(name: str, file: str | None, placeholders: Collection[str]) -> Template:
    """The template in a file of the user's, or the one that is shipped under this name.

    placeholders: what may stand behind a `$`. Raises ValueError for a file that is not there, a placeholder that
    nothing replaces, or a template without any, which would ask the same of every picture.
    """
    path = SHIPPED / f"{name}.txt" if file is None else Path(file)
    try:
        template = Template(path.read_text("utf-8").strip())
    except OSError as error:
        raise ValueError(
            f"expected a template in the file {path}; found: {error}; change it under rewards[i].options"
        ) from error
    found = set(template.get_identifiers())
    if not template.is_valid() or not found or not found <= set(placeholders):
        raise ValueError(
            f"template {path}: expected the placeholders {', '.join(f'${p}' for p in placeholders)} and no others; "
            f"found {', '.join(f'${p}' for p in sorted(found)) or 'none'}; a literal dollar is $$"
        )
    return template
