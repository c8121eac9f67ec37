"""Foundation of every floor: words and their registry, settings, errors, files, stored models.

Its names serve packages that extend tokengym; each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from tokengym.base.plugins import lazily

if TYPE_CHECKING:
    from tokengym.base.bundle import Split as Split
    from tokengym.base.chat import Messages as Messages
    from tokengym.base.device import auto_device as auto_device
    from tokengym.base.device import check_learning as check_learning
    from tokengym.base.device import drawn_from as drawn_from
    from tokengym.base.device import preferred_device as preferred_device
    from tokengym.base.device import select_device as select_device
    from tokengym.base.device import use_device as use_device
    from tokengym.base.errors import StorageError as StorageError
    from tokengym.base.files import behind_link as behind_link
    from tokengym.base.files import content_hash as content_hash
    from tokengym.base.files import json_hash as json_hash
    from tokengym.base.files import jsonl_rows as jsonl_rows
    from tokengym.base.files import read_hashed as read_hashed
    from tokengym.base.files import read_json as read_json
    from tokengym.base.files import read_jsonl as read_jsonl
    from tokengym.base.files import replacing as replacing
    from tokengym.base.files import to_json as to_json
    from tokengym.base.files import write_csv as write_csv
    from tokengym.base.files import write_hashed as write_hashed
    from tokengym.base.files import write_json as write_json
    from tokengym.base.files import write_jsonl as write_jsonl
    from tokengym.base.files import write_text as write_text
    from tokengym.base.files import writing as writing
    from tokengym.base.folders import check_links as check_links
    from tokengym.base.folders import locked as locked
    from tokengym.base.models import StoredModel as StoredModel
    from tokengym.base.models import converted as converted
    from tokengym.base.objects import found as found
    from tokengym.base.objects import own as own
    from tokengym.base.objects import word_of as word_of
    from tokengym.base.own_code import running_user_code as running_user_code
    from tokengym.base.pretrained import from_pretrained as from_pretrained
    from tokengym.base.prompt import say_shared as say_shared
    from tokengym.base.registry import Registry as Registry
    from tokengym.base.registry import did_you_mean as did_you_mean
    from tokengym.base.registry import split_file_word as split_file_word
    from tokengym.base.saved_code import code_hashes as code_hashes
    from tokengym.base.saved_code import copy_of as copy_of
    from tokengym.base.saved_code import data_hashes as data_hashes
    from tokengym.base.saved_code import texts_of_options as texts_of_options
    from tokengym.base.settings import accepts_settings as accepts_settings
    from tokengym.base.settings import check_choice as check_choice
    from tokengym.base.settings import check_count as check_count
    from tokengym.base.settings import check_memory as check_memory
    from tokengym.base.settings import check_number as check_number
    from tokengym.base.settings import explicit as explicit
    from tokengym.base.settings import field_paths as field_paths
    from tokengym.base.settings import from_keywords as from_keywords
    from tokengym.base.stored.adapters import unwrapped as unwrapped
    from tokengym.base.text import markdown as markdown

__getattr__, __dir__, __all__ = lazily(__name__)
