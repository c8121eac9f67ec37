"""Foundation of every floor: words and their registry, settings, errors, files, stored models.

Its names serve packages that extend tokengym; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.bundle import Split
    from tokengym.base.chat import Messages
    from tokengym.base.device import (
        auto_device,
        check_learning,
        drawn_from,
        preferred_device,
        select_device,
        use_device,
    )
    from tokengym.base.errors import StorageError
    from tokengym.base.files import (
        content_hash,
        json_hash,
        read_hashed,
        read_json,
        read_jsonl,
        replacing,
        to_json,
        write_csv,
        write_hashed,
        write_json,
        write_jsonl,
        write_text,
        writing,
    )
    from tokengym.base.folders import check_links, locked
    from tokengym.base.models import StoredModel, converted
    from tokengym.base.objects import found, word_of
    from tokengym.base.pretrained import from_pretrained
    from tokengym.base.prompt import say_shared
    from tokengym.base.registry import Registry, did_you_mean, split_file_word
    from tokengym.base.saved_code import code_hashes, copy_of, data_hashes, texts_of_options
    from tokengym.base.settings import (
        accepts_settings,
        check_choice,
        check_count,
        check_memory,
        check_number,
        explicit,
        field_paths,
        from_keywords,
    )
    from tokengym.base.stored.adapters import unwrapped
    from tokengym.base.text import markdown

__getattr__, __dir__, __all__ = lazily(__name__)
