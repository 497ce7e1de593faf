"""A text made ready for training: read, its tokenizer trained or loaded, its tokens on disk.

The corpus is read twice, piece by piece: once to count its documents and draw the sample that the
tokenizer is trained on, once to encode it.  Each document begins with BOS, where the tokenizer
adds it, and EOS is between documents; windows may cross documents.

The validation split is

* the files given for it, if any;
* a tenth of the documents, chosen by a hash of their numbers, where there are `FEW_DOCUMENTS`;
* otherwise the last tenth of the tokens,

but no more than about `VALIDATION_BYTES` of text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from kullback.errors import InvalidValueError
from kullback.runtime.memory import trim_arenas
from kullback.runtime.wording import count_of
from kullback.text.byte_spans import bytes_of_token
from kullback.text.corpus import Corpus, file_hash
from kullback.text.encoded_corpus import encode_corpus
from kullback.text.formats import ROWS, has_fields
from kullback.text.lost_text import lost_text_note
from kullback.text.piece_encoders import is_of_characters, piece_encoder
from kullback.text.special_tokens import BOS, EOS
from kullback.text.tokenizer import TextTokenizer
from kullback.text.tokenizer_file import read_tokenizer, remove_dropout
from kullback.text.tokenizer_training import character_tokenizer, train_tokenizer
from kullback.training.progress import TrainingProgress
from kullback.training.text_batches import TextBatches
from kullback.training.text_data import Dtype, Split, TextData, batches_of_shards
from kullback.training.text_shards import (
    NAMES,
    Stamp,
    has_tokens,
    shard_writers,
    shards_folder,
)
from kullback.training.text_splits import (
    FEW_DOCUMENTS,
    SplitWriter,
    held_out_share,
    is_held_out,
)

__all__ = ["CHARACTERS", "TextOptions", "check_text", "prepare_text"]

CHARACTERS = "characters"
# Bytes of text that a BPE is trained on: about a second each on a core.
SAMPLE_BYTES = 8_000_000
# Of a vocabulary that is stored in 16 bits.
SHORT_VOCABULARY = 1 << 16


@dataclass(frozen=True)
class TextOptions:
    """What is read, and how."""

    sources: Sequence[str | Path]
    """Files, folders and patterns."""
    validation: Sequence[str | Path] = ()
    field: str = "text"
    tokenizer: str | Path | None = None
    """A ``tokenizer.json`` or its folder, `CHARACTERS`, or None for a BPE trained on the text."""
    vocabulary_size: int | None = None
    """Of a BPE; None for `default_vocabulary`, or what a short text supports."""
    default_vocabulary: int = 1024
    context: int = 64
    windows: int = 48
    seed: int = 0


@dataclass
class _Scan:
    """What the first reading of a corpus finds."""

    documents: int = 0
    """That are not empty."""
    size: int = 0
    """In bytes."""
    sample: list[str] | None = None
    sampled: int = 0
    characters: set[str] | None = None

    def read(self, corpus: Corpus) -> None:
        """Read a corpus; every k-th piece becomes a part of the sample.

        k grows where the text is longer than was estimated, so that the sample is of all of it.
        """
        every = max(1, -(-corpus.estimated_bytes // SAMPLE_BYTES))  # files of /proc say 0
        before = -1
        for number, piece in enumerate(corpus.pieces()):
            self.documents += piece.document != before
            before = piece.document
            size = len(piece.text.encode())
            self.size += size
            if self.characters is not None:
                self.characters.update(piece.text)
            if self.sample is not None and number % every == 0:
                self.sample.append(piece.text)
                self.sampled += size
                if self.sampled > 2 * SAMPLE_BYTES and len(self.sample) > 1:
                    self.sample, every = self.sample[::2], 2 * every
                    self.sampled = sum(len(text.encode()) for text in self.sample)


def check_text(options: TextOptions) -> None:
    """Raise `InvalidValueError` for files that are missing, before a folder is made for the run."""
    if options.tokenizer is not None and options.vocabulary_size is not None:
        raise InvalidValueError(
            f"vocabulary_size is {options.vocabulary_size}: it does not apply to the tokenizer "
            f"{options.tokenizer}, which has its own; remove one of them"
        )
    if options.tokenizer not in (None, CHARACTERS):
        load_tokenizer(Path(str(options.tokenizer)))
    corpora = [Corpus.of(names, options.field) for names in (options.sources, options.validation)]
    for corpus in corpora:
        corpus.estimated_bytes  # noqa: B018 - opens the files
    if options.field != "text" and not any(
        has_fields(path) for corpus in corpora for path, _ in corpus.files
    ):
        raise InvalidValueError(
            f"field (--field) is {options.field!r}, and no file of this text has fields: "
            f"{', '.join(ROWS)} files have; leave it out"
        )


def prepare_text(run: Path, options: TextOptions, progress: TrainingProgress) -> TextBatches:
    """The batches of a text, whose tokens are written into the folder of a run.

    Raises `InvalidValueError` for a text that cannot be read, is too short, or does not support
    the vocabulary, and for a tokenizer that cannot spell it; `RunError` where the disk is full.
    What was written by then is removed by `kullback.training.description.preparing`.
    """
    corpus = Corpus.of(options.sources, options.field, progress.note)
    held_out = Corpus.of(options.validation, options.field, progress.note)
    if has_tokens(run):
        progress.note(
            f"an earlier run in {run} was stopped while its text was prepared, before its first "
            "step: what it left is replaced"
        )
    progress.stage("reading the text")
    scan = _Scan(
        sample=[] if options.tokenizer is None else None,
        characters=set() if options.tokenizer == CHARACTERS else None,
    )
    scan.read(corpus)
    if not scan.size:
        raise InvalidValueError(f"the text {options.sources[0]} is empty: there is nothing to read")
    if held_out.files:
        of_validation = _Scan(characters=scan.characters)
        of_validation.read(held_out)
        if not of_validation.size:
            raise InvalidValueError(f"the validation text {options.validation[0]} is empty")
    reader, tokenizer = _tokenizer(options, scan, progress)
    if (lost := lost_text_note(reader, next(corpus.pieces()).text)) is not None:
        progress.note(lost)
    scan.sample = None
    trim_arenas()  # of the sample and of the trainer's counts
    table = byte_table(tokenizer, reader)
    dtype: Dtype = "uint16" if reader.vocabulary_size <= SHORT_VOCABULARY else "uint32"
    stamps = [Stamp.of(path, file_hash(path)) for path, _ in (*corpus.files, *held_out.files)]
    _check_repeated(stamps[: len(corpus.files)], stamps[len(corpus.files) :], progress)
    progress.stage("encoding the text")
    folder = shards_folder(run)
    with shard_writers(run, dtype) as files:
        writer = SplitWriter(files, reader, table, lambda done: progress.advance(done, scan.size))
        split = _write(writer, corpus, held_out, scan, (tokenizer, reader, dtype, options.context))
        shards = [file.publish(folder / name) for file, name in zip(files, NAMES, strict=True)]
    trim_arenas()
    progress.tell(_split_note(split, writer, [file.length for file in files]))
    if scan.documents > 1 and not writer.has_separator:
        progress.note(
            "the tokenizer has neither BOS nor EOS: documents follow each other without a separator"
        )
    data = TextData(
        text=list(corpus.paths),
        validation=list(held_out.paths),
        field=options.field,
        fingerprint=hashlib.sha256("".join(s.sha256 for s in shards).encode()).hexdigest(),
        split=split,
        special_tokens=(_spelled(tokenizer, reader.bos_id), _spelled(tokenizer, reader.eos_id)),
        dtype=dtype,
        lengths=[file.length for file in files],
        files=stamps,
        shards=shards,
        context=options.context,
        windows=options.windows,
        seed=options.seed,
    )
    return batches_of_shards(run, data, tokenizer)


def _check_repeated(
    trained: Sequence[Stamp], held_out: Sequence[Stamp], progress: TrainingProgress
) -> None:
    """Raise `InvalidValueError` where validation would be on files that are trained on.

    Files are compared by content.  Copies in a corpus of which a part is held out are noted.
    """
    names, copies = _copies(trained, "a part of it would be trained on and held out")
    for stamp in held_out:
        if stamp.sha256 in names:
            other = names[stamp.sha256]
            same = "is" if other == stamp.path else f"has the content of {other},"
            raise InvalidValueError(
                f"the validation text {stamp.path} {same} trained on: its loss would not be that "
                "of unseen text; leave it out of one of them"
            )
    if copies and not held_out:
        progress.note(
            f"{copies}: text that is held out of one may be trained on in the other; "
            "remove copies, or give --validation"
        )
    _, copies = _copies(held_out, "intervals would be those of as much other text", "validation ")
    if copies:
        progress.note(
            f"{copies}: validation counts it more than once, and its intervals are too narrow; "
            "remove copies"
        )


def _copies(stamps: Sequence[Stamp], otherwise: str, of: str = "") -> tuple[dict[str, str], str]:
    """The first file of each content, and a clause about files that are copies of others, if any.

    Raises `InvalidValueError` where a file is given twice, since `otherwise`.
    """
    names: dict[str, str] = {}
    copies: list[str] = []
    given = Counter(stamp.path for stamp in stamps)
    for stamp in stamps:
        other = names.setdefault(stamp.sha256, stamp.path) if stamp.size else stamp.path
        if given[stamp.path] > 1:
            raise InvalidValueError(
                f"the {of}text {stamp.path} is given twice: {otherwise}; give it once"
            )
        if other != stamp.path:
            copies.append(f"{stamp.path} has the content of {other}")
    more = f" ({len(copies) - 1} more are copies)" if len(copies) > 1 else ""
    return names, copies[0] + more if copies else ""


def _tokenizer(
    options: TextOptions, scan: _Scan, progress: TrainingProgress
) -> tuple[TextTokenizer, Tokenizer]:
    """The tokenizer, as it reads a text and as it is stored."""
    if options.tokenizer == CHARACTERS:
        assert scan.characters is not None
        tokenizer = character_tokenizer(scan.characters)
        return TextTokenizer(tokenizer, BOS, EOS), tokenizer
    if options.tokenizer is not None:
        reader, tokenizer = load_tokenizer(Path(options.tokenizer))
        for note in reader.notes:
            progress.note(note)
        return reader, tokenizer
    progress.stage("training the tokenizer")
    asked = options.vocabulary_size
    wanted = options.default_vocabulary if asked is None else asked
    # In a thread of its own, whose memory is given back whole: in that of the main thread the
    # counts would leave 100 MB of holes, in which later arrays leave pages behind.
    with ThreadPoolExecutor(1) as pool:
        tokenizer = pool.submit(train_tokenizer, scan.sample or [], wanted).result()
    entries = tokenizer.get_vocab_size()
    if entries < wanted:
        supports = f"the text supports a vocabulary of {entries:,} entries, not of {wanted:,}"
        if asked is not None:
            raise InvalidValueError(
                f"{supports}: no two of its tokens follow each other twice; choose at most "
                f"{entries:,}, or give more text"
            )
        progress.note(supports)
    if scan.sampled < scan.size:
        progress.note(
            f"the tokenizer was trained on a sample of {scan.sampled / 1e6:,.0f} MB, drawn evenly "
            f"from the {scan.size / 1e6:,.0f} MB of text"
        )
    return TextTokenizer(tokenizer, BOS, EOS), tokenizer


def load_tokenizer(path: Path) -> tuple[TextTokenizer, Tokenizer]:
    """The tokenizer in a folder, or in a ``tokenizer.json`` with the configuration beside it.

    Raises `InvalidValueError` where it is missing or damaged.
    """
    folder = path.expanduser()
    if not folder.exists():
        raise InvalidValueError(
            f"the tokenizer {path} is not there: give {CHARACTERS}, a tokenizer.json, or a folder "
            "that contains one"
        )
    if folder.is_file():
        if folder.name != "tokenizer.json":
            raise InvalidValueError(
                f"the tokenizer {path} is not called tokenizer.json: give a file of that name "
                "(of Hugging Face tokenizers), or the folder that contains it"
            )
        folder = folder.parent
    reader = TextTokenizer.load(folder)
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    remove_dropout(tokenizer)
    return reader, tokenizer


def byte_table(tokenizer: Tokenizer, reader: TextTokenizer) -> Int[np.ndarray, "V"] | None:
    """The bytes of text of each entry; 0 for special tokens.

    None where they differ from occurrence to occurrence: for tokenizers that
    `kullback.text.piece_encoders` does not encode, `encode_corpus` has the bytes of each token.
    """
    if piece_encoder(tokenizer, np.uint32) is None:
        return None
    of_characters = is_of_characters(json.loads(tokenizer.to_str()))
    sizes = np.zeros(reader.vocabulary_size, dtype=np.int64)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token not in reader.special_strings:
            spelled = token.encode() if of_characters else bytes_of_token(token, True)
            sizes[token_id] = len(spelled)
    return sizes


def _write(
    writer: SplitWriter,
    corpus: Corpus,
    held_out: Corpus,
    scan: _Scan,
    encoding: tuple[Tokenizer, TextTokenizer, Dtype, int],
) -> Split:
    """Encode and write both splits, and say how they were made."""
    tokenizer, reader, dtype, context = encoding
    share = held_out_share(scan.size)
    by_document = not held_out.files and scan.documents >= FEW_DOCUMENTS
    pieces = encode_corpus(corpus, tokenizer, reader, dtype)
    writer.write(pieces, lambda document: by_document and is_held_out(document, share))
    if held_out.files:
        writer.write(encode_corpus(held_out, tokenizer, reader, dtype), lambda document: True)
        writer.finish(0, share)
        return "files"
    return "tail" if writer.finish(context + 1, share) else "documents"


def _split_note(split: Split, writer: SplitWriter, lengths: Sequence[int]) -> str:
    """How much is held out, in a sentence."""
    trained, held = (f"{length:,}" for length in lengths[:2])
    short = writer.too_short
    alone = f" and {short} of its documents, which alone are shorter than a window" if short else ""
    which = {
        "files": "the files given for it",
        "tail": f"the end of the text{alone}",
        "documents": f"{writer.documents[1]:,} of {count_of(sum(writer.documents), 'document')}",
    }
    return f"{trained} tokens to train on; {held} for validation, {which[split]}"


def _spelled(tokenizer: Tokenizer, token: int | None) -> str | None:
    return None if token is None else tokenizer.id_to_token(token)
