"""The part of a tokenizer that its json leaves unsaid, in Hugging Face's files."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")  # the latter wins
ADDED = "added_tokens.json"  # before tokenizer_config.json had them
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
SIDES = ("left", "right")
NAMES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


class Conventions(NamedTuple):
    """The part of a tokenizer that its json leaves unsaid; see tokenizer_config.json.

    Attributes:
      specials: "bos", "eos"… -> the token.
      chat_templates: name -> jinja; "default" is taken where none is named.
      adds: "bos" or "eos" -> whether it stands around a text; absent: as the json's
        post-processor says.
      truncation_side: the end at which a long text loses tokens, "left" or "right"; "":
        as the json says, else "right".
    """

    specials: Mapping[str, str] = {}
    chat_templates: Mapping[str, str] = {}
    adds: Mapping[str, bool] = {}
    truncation_side: str = ""


def read(folder: epath.Path) -> tuple[Conventions, list[dict[str, Any]]]:
    """The conventions in a folder's files, and the tokens that they add.

    A key that is null, and a token without text, say nothing. Each added token is as in
    a tokenizer.json: `id`, `content`, `special`….

    Raises:
      ValueError: one of the files is broken; with its name and the key.
    """
    config: dict[str, Any] = {}
    for name in CONFIGS:
        content = _object(folder / name)
        config |= {key: value for key, value in content.items() if value is not None}
    file = folder / CONFIGS[-1]
    specials, adds = {}, {}
    for name in NAMES:
        if token := _token(file, f"{name}_token", config.get(f"{name}_token")):
            specials[name] = token
    for name in ("bos", "eos"):
        flag = config.get(f"add_{name}_token")
        if isinstance(flag, bool):
            adds[name] = flag
        elif flag is not None:
            raise ValueError(
                f"{file} has add_{name}_token {flag!r}; accepted: true, false"
            )
    templates = _template_files(folder) or _templates(file, config.get("chat_template"))
    named = {*specials.values()}
    side = config.get("truncation_side", "")
    if side not in ("", *SIDES):
        raise ValueError(
            f"{file} has truncation_side {side!r}; accepted: {', '.join(SIDES)}"
        )
    conventions = Conventions(specials, templates, adds, side)
    return conventions, _added_tokens(folder, config, named)


def write(config: epath.Path, conventions: Conventions) -> None:
    """Writes what `read` reads, to a tokenizer_config.json; nothing where there is
    nothing to say and no file that says otherwise."""
    content: dict[str, Any] = {
        f"{name}_token": token for name, token in conventions.specials.items()
    }
    content |= {f"add_{name}_token": flag for name, flag in conventions.adds.items()}
    if conventions.truncation_side:
        content["truncation_side"] = conventions.truncation_side
    templates = conventions.chat_templates
    if set(templates) == {"default"}:
        content["chat_template"] = templates["default"]
    elif templates:
        content["chat_template"] = [
            {"name": name, "template": template} for name, template in templates.items()
        ]
    if content or config.exists():
        replace(config, json.dumps(content, indent=2, ensure_ascii=False))


def replace(path: epath.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.parent / f".{path.name}.partial"
    temporary.write_bytes(text.encode())
    temporary.replace(path)


def _object(file: epath.Path) -> dict[str, Any]:
    """The json object in a file; empty where there is no file."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as e:
        raise ValueError(f"{file} is not json: {str(e)[:200]}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def _token(file: epath.Path, key: str, token: Any) -> str | None:
    """The text of a token, which may be an object with `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str | None) or (isinstance(token, dict) and text is None):
        raise ValueError(
            f"{file} has {key} {str(token)[:80]}; accepted: a token's text, or an "
            "object with it as content"
        )
    return text


# --- chat templates -------------------------------------------------------------------


def _template_files(folder: epath.Path) -> dict[str, str]:
    """Templates in files of their own, which win over tokenizer_config.json's."""
    files = {"default": folder / TEMPLATE}
    if (folder / TEMPLATES).is_dir():
        more = sorted((folder / TEMPLATES).glob("*.jinja"))
        files |= {file.name.removesuffix(".jinja"): file for file in more}
    templates = {}
    for name, file in files.items():
        if not file.exists():
            continue
        try:
            templates[name] = file.read_bytes().decode()
        except (UnicodeDecodeError, OSError) as e:
            raise ValueError(f"{file} is no template in UTF-8: {e}") from e
    return templates


def _templates(file: epath.Path, value: Any) -> dict[str, str]:
    """Templates in tokenizer_config.json: one, a list of objects, or by name."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    templates: dict[Any, Any] = {}
    if isinstance(value, dict):
        templates = value
    elif isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value]
        if all(isinstance(name, str) for name, _ in pairs):
            templates = dict(pairs)
    if not templates or not all(isinstance(text, str) for text in templates.values()):
        raise ValueError(
            f"{file} has chat_template {str(value)[:80]}; accepted: a template's text, "
            'or a list of {"name": ..., "template": ...}'
        )
    return templates


# --- added tokens ---------------------------------------------------------------------


def _added_tokens(
    folder: epath.Path, config: Mapping[str, Any], specials: set[str]
) -> list[dict[str, Any]]:
    """The tokens of `added_tokens_decoder` or else of added_tokens.json, by id."""
    file = folder / CONFIGS[-1]
    if "added_tokens_decoder" in config:
        tokens = config["added_tokens_decoder"]
        where = f"{file} has added_tokens_decoder"
    else:
        tokens = {
            number: {"content": token, "special": token in specials}
            for token, number in _object(folder / ADDED).items()
        }
        where = f"{folder / ADDED} has"
    if not isinstance(tokens, dict):
        raise ValueError(f"{where} {str(tokens)[:80]}; accepted: an object by id")
    added = [_added_token(where, *item) for item in tokens.items()]
    return sorted(added, key=lambda token: token["id"])


def _added_token(where: str, number: Any, token: Any) -> dict[str, Any]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    special = isinstance(token, dict) and token.get("special", False)
    plain = {flag: False for flag in flags} | {"normalized": not special}
    try:
        entry = {"id": int(number), "content": token["content"]}
        entry |= {flag: token.get(flag, plain[flag]) for flag in flags}
        types = isinstance(entry["content"], str) and isinstance(number, str | int)
        if not types or not all(isinstance(entry[flag], bool) for flag in flags):
            raise TypeError("text and true or false")
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise ValueError(
            f"{where} {str(number)[:40]!r}: {str(token)[:80]}; accepted: an id with "
            "content, special and the like"
        ) from e
    return entry
