"""How close are explanations to the users' reviews, and how well do they read?

Papers: RecPIE, section 5.3 (BLEURT, Informativeness, Fluency, with user reviews as references); Sellam et al. 2020
(BLEURT); Yuan, Neubig and Liu 2021 (BARTScore); Zhang et al. 2020 (BERTScore).

Every model is loaded from a local folder, from safetensors alone; nothing is downloaded. A score without its
checkpoint says little, so `explanation_quality` returns rows {"metric", "score", "checkpoint", "flags"}.

Departures:

1. RecPIE does not say in which direction, by which model or on which scale it used BARTScore. Here Informativeness is
   BARTScore's recall direction, the mean log-likelihood of the review's tokens given the explanation, and Fluency the
   mean log-likelihood of the explanation's tokens on their own (causal model) or given an empty source
   (encoder-decoder model). RecPIE's values lie between 0 and 1, so the mean over texts of exp(value), the geometric
   mean probability of a token, stands beside as `probability`; whether RecPIE printed that is not known.
2. Means over tokens are taken per text, then over texts, as in BARTScore; special tokens of the target (BART's <s> and
   </s>) count in encoder-decoder models, as in BARTScore's own code.
3. BERTScore is computed here: torchmetrics 1.9 sorts candidates and references by length and pairs them up wrongly
   afterwards. [CLS] and [SEP] take no part; no idf weights, no rescaling with a baseline.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

EXTRA = "pip install 'rlrec[text]'"


@dataclass
class Checkpoint:
    """A frozen model on its device, its tokenizer, and what identifies it.

    Attributes:
        path: the local folder.
        weights: first 12 hex digits of the sha256 over its weight files.
        max_length: tokens that fit, at most.
    """

    model: torch.nn.Module
    tokenizer: object
    path: str
    weights: str
    max_length: int

    @classmethod
    def load(cls, path: str | Path, model_class, device: str = "cpu", max_length: int = 512) -> "Checkpoint":
        """Load a model from a local folder that holds safetensors.

        Raises:
            FileNotFoundError: the folder, or safetensors in it, are missing.
            ValueError: the checkpoint lacks weights of `model_class`, which would then be random.
        """
        files = sorted(Path(path).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(
                f"{path} is not a folder with safetensors; give the local folder of the checkpoint (nothing is "
                "downloaded, and pickled weights are not read: load those once and save_pretrained them)."
            )
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model, loading = model_class.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
        unused = "pooler" if model_class is AutoModel else None  # of an encoder, whose hidden states alone are read
        missing = sorted(key for key in loading["missing_keys"] if not unused or unused not in key)
        if missing or loading["mismatched_keys"]:
            raise ValueError(
                f"{path} has no weights for {', '.join(missing[:3]) or 'some layers'} of {type(model).__name__}, "
                "would stay random; give a checkpoint trained for this metric."
            )
        digest = hashlib.sha256()
        for file in files:
            with open(file, "rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
        positions = [
            getattr(model.config, name, None)
            for name in ("max_position_embeddings", "n_positions", "max_source_positions")
        ]
        limit = min([max_length, tokenizer.model_max_length, *(value for value in positions if value)])
        model = model.requires_grad_(False).eval().to(device)
        return cls(model, tokenizer, str(path), digest.hexdigest()[:12], limit)

    def encode(self, *texts: Sequence[str], **options) -> tuple[dict[str, list[list[int]]], int]:
        """The tokenizer's lists of N texts (or pairs), cut at `max_length`, and how many were cut.

        Control tokens that are written in a text do not act.
        """
        options |= {"split_special_tokens": True, "verbose": False}
        columns = [list(column) for column in texts]
        encoded = self.tokenizer(*columns, **options)
        cut = sum(len(ids) > self.max_length for ids in encoded["input_ids"])
        if cut:
            encoded = self.tokenizer(*columns, truncation=True, max_length=self.max_length, **options)
        return dict(encoded), cut

    def pad(self, rows: Sequence[Sequence[int]], value: int | None = None) -> torch.Tensor:
        """(B, T) ids on the model's device, padded on the right with the padding token or `value`."""
        value = (self.tokenizer.pad_token_id or 0) if value is None else value
        width = max(map(len, rows))
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=self.model.device)

    def mask(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(B, T) 1 at the rows' tokens and 0 at the padding of `pad`."""
        return self.pad([[1] * len(row) for row in rows], 0)


def _batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Positions in batches of similar length."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def bleu(explanations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU (0 to 100) of sacrebleu with one reference per text, and sacrebleu's signature."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError(f"BLEU needs the package `sacrebleu`: {EXTRA}.") from error
    metric = BLEU()
    score = metric.corpus_score(list(explanations), [list(references)]).score
    return score, str(metric.get_signature())


def rouge(explanations: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """{"rouge1", "rouge2", "rougeL": (N,) F-measures in [0, 1]} of rouge-score, without stemming."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError(f"ROUGE needs the package `rouge-score`: {EXTRA}.") from error
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(explanations, references, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores]) for name in names}


@torch.no_grad()
def bleurt(
    checkpoint: Checkpoint, explanations: Sequence[str], references: Sequence[str], batch_size: int = 32
) -> tuple[np.ndarray, int]:
    """BLEURT of each explanation: the regression model's output for the pair (reference, explanation).

    Args:
        checkpoint: of `AutoModelForSequenceClassification`, with one output.

    Returns:
        (N,) scores and the number of pairs that were cut.

    Raises:
        ValueError: a model with several outputs.
    """
    if checkpoint.model.config.num_labels != 1:
        raise ValueError(
            f"{checkpoint.path} has {checkpoint.model.config.num_labels} outputs; BLEURT is a regression with one."
        )
    encoded, cut = checkpoint.encode(references, explanations)
    scores = np.empty(len(explanations))
    for batch in _batches([len(ids) for ids in encoded["input_ids"]], batch_size):
        inputs = checkpoint.tokenizer.pad(
            {name: [values[i] for i in batch] for name, values in encoded.items()}, return_tensors="pt"
        ).to(checkpoint.model.device)
        scores[batch] = checkpoint.model(**inputs).logits[:, 0].float().cpu().numpy()
    return scores, cut


@torch.no_grad()
def bert_score(
    checkpoint: Checkpoint,
    explanations: Sequence[str],
    references: Sequence[str],
    batch_size: int = 32,
    layer: int = -1,
) -> tuple[np.ndarray, int]:
    """BERTScore F1: every token is matched with its most similar one of the other text by cosine.

    Args:
        checkpoint: of `AutoModel`.
        layer: hidden layer of the vectors (-1: the last). The original recommends one per model, such as 17 of
            roberta-large.

    Returns:
        (N,) F1, 0 where a text has no token, and the number of texts that were cut.
    """
    scores, cut = np.zeros(len(explanations)), 0
    columns = []
    for texts in (explanations, references):
        encoded, cut_here = checkpoint.encode(texts)
        columns.append(encoded["input_ids"])
        cut += cut_here
    special = set(checkpoint.tokenizer.all_special_ids) - {checkpoint.tokenizer.unk_token_id}

    def vectors(rows):  # (B, T, d) of length 1, or 0 for special tokens and padding
        ids, mask = checkpoint.pad(rows), checkpoint.mask(rows)
        hidden = checkpoint.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
        mask = torch.tensor([[i not in special for i in row] for row in ids.tolist()], device=ids.device) & mask.bool()
        return torch.nn.functional.normalize(hidden.float(), dim=-1) * mask.unsqueeze(-1), mask

    for batch in _batches([len(a) + len(b) for a, b in zip(*columns, strict=True)], batch_size):
        (a, mask_a), (b, mask_b) = (vectors([rows[i] for i in batch]) for rows in columns)
        similarity = a @ b.transpose(1, 2)  # (B, T_a, T_b)
        precision = _matched(similarity, mask_a, mask_b)
        recall = _matched(similarity.transpose(1, 2), mask_b, mask_a)
        f1 = 2 * precision * recall / (precision + recall)
        scores[batch] = f1.nan_to_num(0.0).cpu().numpy()
    return scores, cut


def _matched(similarity: torch.Tensor, mask: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B, T, S) -> (B,) mean over the tokens of `mask` of their largest similarity to one of `other`."""
    best = similarity.masked_fill(~other.unsqueeze(1), -math.inf).amax(-1).masked_fill(~mask, 0.0)
    return (best.sum(1) / mask.sum(1)).nan_to_num(0.0, neginf=0.0)


@torch.no_grad()
def log_likelihoods(
    checkpoint: Checkpoint, sources: Sequence[str], targets: Sequence[str], batch_size: int = 16
) -> tuple[np.ndarray, int]:
    """BARTScore: mean over the target's tokens of log p(token | tokens before it, source), in nats.

    Args:
        checkpoint: of `AutoModelForSeq2SeqLM` or `AutoModelForCausalLM`. A causal model reads the source, a
            line break, then the target; without source its BOS (or EOS) token comes first.
        sources: N texts, "" for none.
        targets: N texts.

    Returns:
        (N,) values at most 0, NaN for a target without a token, and the number of texts that were cut at their
        end. In a causal model both texts share `max_length`, and the source is cut first.
    """
    tokenizer, encoder_decoder = checkpoint.tokenizer, checkpoint.model.config.is_encoder_decoder
    first = tokenizer.eos_token_id if encoder_decoder or tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not encoder_decoder:
        sources = [f"{source}\n" if source else "" for source in sources]
    encoded, cut_sources = checkpoint.encode(sources)
    encoded_targets, cut_targets = checkpoint.encode(targets, add_special_tokens=encoder_decoder)
    source_ids, target_ids = encoded["input_ids"], encoded_targets["input_ids"]
    if not all(source_ids):
        if first is None:
            raise ValueError(f"{checkpoint.path} has neither a BOS nor an EOS token to start from; give sources.")
        source_ids = [ids or [first] for ids in source_ids]
    if not encoder_decoder:
        target_ids = [ids[: checkpoint.max_length - 1] for ids in target_ids]
        room = [checkpoint.max_length - len(ids) for ids in target_ids]
        cut_sources = sum(len(ids) > space for ids, space in zip(source_ids, room))
        source_ids = [ids[:space] for ids, space in zip(source_ids, room)]
    values = np.full(len(targets), math.nan)
    scored = [i for i, ids in enumerate(target_ids) if ids]
    for batch in _batches([len(source_ids[i]) + len(target_ids[i]) for i in scored], batch_size):
        batch = [scored[i] for i in batch]
        pairs = [source_ids[i] for i in batch], [target_ids[i] for i in batch]
        values[batch] = _mean_log_likelihood(checkpoint, *pairs).cpu().numpy()
    return values, cut_sources + cut_targets


def _mean_log_likelihood(checkpoint: Checkpoint, sources, targets) -> torch.Tensor:
    """Lists of ids -> (B,)."""
    if checkpoint.model.config.is_encoder_decoder:
        labels = checkpoint.pad(targets, -100)  # (B, T); the model shifts them to the right for its decoder
        inputs = {"input_ids": checkpoint.pad(sources), "attention_mask": checkpoint.mask(sources)}
        logits = checkpoint.model(**inputs, labels=labels).logits  # (B, T, V)
    else:
        rows = [[*source, *target] for source, target in zip(sources, targets)]
        labels = checkpoint.pad([[-100] * len(s) + list(t) for s, t in zip(sources, targets)], -100)[:, 1:]
        inputs = {"input_ids": checkpoint.pad(rows), "attention_mask": checkpoint.mask(rows)}
        logits = checkpoint.model(**inputs).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    return -losses.sum(1) / (labels != -100).sum(1)


def load_language_model(path: str | Path, device: str = "cpu", max_length: int = 512) -> Checkpoint:
    """A local encoder-decoder or causal language model, whichever the folder's config says."""
    if not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"There is no config.json in {path}; give the local folder of a language model.")
    encoder_decoder = AutoConfig.from_pretrained(
        path, local_files_only=True, trust_remote_code=False
    ).is_encoder_decoder
    return Checkpoint.load(
        path, AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM, device, max_length
    )


def explanation_quality(
    explanations: Sequence[str],
    references: Sequence[str | None],
    *,
    bleurt_path: str | Path | None = None,
    bert_path: str | Path | None = None,
    informativeness_path: str | Path | None = None,
    fluency_path: str | Path | None = None,
    bert_layer: int = -1,
    device: str = "cpu",
    batch_size: int = 16,
    max_length: int = 512,
) -> list[dict]:
    """Every text metric for which there is a path, over the rows that have a reference; BLEU and ROUGE always.

    Args:
        explanations: N texts.
        references: for each, the user's review; None or blank without one. Such rows are left out and counted.
        bleurt_path: folder of a BLEURT checkpoint with a plain sequence-classification head (docs/evaluation.md).
        bert_path, bert_layer: folder of an encoder for BERTScore, and its layer.
        informativeness_path, fluency_path: folders of language models; may be the same.
        max_length: tokens per text (per pair in BLEURT and causal models), or fewer where a model has fewer positions.

    Returns:
        Rows {"metric", "score", "checkpoint" (folder, or None), "flags"}; flags say what a reader needs to compare
        the number, with the rows it is the mean of, texts cut, and explanations that were empty.

    Raises:
        ValueError: lengths that differ, or no row with a reference.
        ImportError, FileNotFoundError: a package or a checkpoint is missing; the message says what to do.
    """
    if len(explanations) != len(references):
        raise ValueError(f"Got {len(explanations)} explanations and {len(references)} references; give as many.")
    kept = [i for i, reference in enumerate(references) if reference and reference.strip()]
    if not kept:
        raise ValueError(
            f"Text metrics compare explanations with the users' reviews, and none of the {len(references)} rows has "
            "one; prepare the dataset with its reviews."
        )
    texts, reviews = [explanations[i] for i in kept], [references[i] for i in kept]
    counts = {
        "rows": len(kept),
        "without_reference": len(references) - len(kept),
        "empty_explanations": sum(not text.strip() for text in texts),
    }
    score, signature = bleu(texts, reviews)
    rows = [_row("bleu", score, None, counts | {"signature": signature, "scale": "0-100"})]
    flags = counts | {"package": "rouge-score", "measure": "F", "stemmer": False}
    rows += [_row(name, values.mean(), None, flags) for name, values in rouge(texts, reviews).items()]

    def add(metric: str, checkpoint: Checkpoint, result: tuple[np.ndarray, int], **flags) -> None:
        values, cut = result
        values = values[~np.isnan(values)]
        flags |= {"truncated": cut, "max_length": checkpoint.max_length, "weights": checkpoint.weights}
        mean = values.mean() if len(values) else None
        if metric in ("informativeness", "fluency") and len(values):
            flags["probability"] = float(np.exp(values).mean())
        rows.append(_row(metric, mean, checkpoint, counts | {"rows": len(values)} | flags))

    if bert_path:
        model = Checkpoint.load(bert_path, AutoModel, device, max_length)
        result = bert_score(model, texts, reviews, batch_size, bert_layer)
        add("bertscore", model, result, measure="F1", layer=bert_layer, idf=False, rescaled=False)
    if bleurt_path:
        model = Checkpoint.load(bleurt_path, AutoModelForSequenceClassification, device, max_length)
        add("bleurt", model, bleurt(model, texts, reviews, batch_size), pair="(reference, explanation)")
    if informativeness_path:
        model = load_language_model(informativeness_path, device, max_length)
        add("informativeness", model, log_likelihoods(model, texts, reviews, batch_size), given="review | explanation")
    if fluency_path:
        model = load_language_model(fluency_path, device, max_length)
        given = "explanation | empty source" if model.model.config.is_encoder_decoder else "explanation"
        add("fluency", model, log_likelihoods(model, [""] * len(texts), texts, batch_size), given=given)
    return rows


def _row(metric: str, score: float | None, checkpoint: Checkpoint | None, flags: dict) -> dict:
    path = None if checkpoint is None else checkpoint.path
    return {"metric": metric, "score": None if score is None else float(score), "checkpoint": path, "flags": flags}
