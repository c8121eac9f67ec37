"""Foundation of every floor: words and their registry, settings, errors, files, stored models.

Its names serve packages that extend tokengym; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.exports import lazily, listed

if TYPE_CHECKING:
    from tokengym.base.bundle import PARTS, Split, find_bundle
    from tokengym.base.device import auto_device, preferred_device, select_device, use_device
    from tokengym.base.errors import PretrainedError, StorageError
    from tokengym.base.files import (
        check_links,
        locked,
        parse_json,
        read_hashed,
        read_json,
        read_jsonl,
        replacing,
        write_bytes,
        write_csv,
        write_hashed,
        write_json,
        write_jsonl,
        write_text,
        writing,
    )
    from tokengym.base.models import MODELS
    from tokengym.base.plugins import LABORATORY
    from tokengym.base.pretrained import from_pretrained
    from tokengym.base.prompt import Messages, prompt_messages
    from tokengym.base.registry import Registry, did_you_mean
    from tokengym.base.settings import (
        as_plain,
        check_choice,
        check_count,
        check_number,
        field_paths,
        from_keywords,
        names_of,
        takes,
    )
    from tokengym.base.text import markdown
    from tokengym.base.user_code import CODE, code_hashes, copy_of, load_from_file
    from tokengym.base.words import split_file_word

_NAMES = {
    "bundle": "PARTS Split find_bundle",
    "device": "auto_device preferred_device select_device use_device",
    "errors": "PretrainedError StorageError",
    "files": "check_links locked parse_json read_hashed read_json read_jsonl "
    "replacing write_bytes write_csv write_hashed write_json write_jsonl "
    "write_text writing",
    "models": "MODELS",
    "plugins": "LABORATORY",
    "pretrained": "from_pretrained",
    "prompt": "Messages prompt_messages",
    "registry": "Registry did_you_mean",
    "settings": "as_plain check_choice check_count check_number field_paths from_keywords "
    "names_of takes",
    "text": "markdown",
    "user_code": "CODE code_hashes copy_of load_from_file",
    "words": "split_file_word",
}

__all__ = listed(_NAMES)
__getattr__ = lazily(__name__, _NAMES)
