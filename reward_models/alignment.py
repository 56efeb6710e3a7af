"""ExpCTR's two rewards: an explanation is good when it makes the user's true reaction predictable.

Paper: Yu et al., "Explainable CTR Prediction via LLM Reasoning" (ExpCTR, WSDM 2025): LC alignment (equations 8, 9) and
IC alignment (equation 13). Normalisation and clipping (equation 10) belong to the trainer: `PPOConfig`.

Departures:

1. p(t0 = V) in equation 8 is taken as the logit. A softmax of two probabilities could not leave [0.27, 0.73] at T = 1.
2. The sets V_pos and V_neg hold every single-token spelling of Yes and of No that the tokenizer has (case, leading
   space), combined by logsumexp.
3. Optional Brier form of LC: 1 - (y - s)^2, a proper scoring rule. Equation 9 is not one: a policy is paid for pushing
   s to 0 or 1, which costs LogLoss.
4. s_r comes from a model that was not trained on the row (out of fold); the in-sample form as printed is one argument
   away. In-sample, the recommender already knows the row's label, and rewards whatever text it was trained on.
5. Equation 13's second term, |s_r - s_r without z|, pays for influence in either direction; `shift="signed"` pays only
   for influence towards the label, "off" for none. Both terms are logged apart.
6. Optional baseline: see `ICReward`.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence

import polars as pl
import torch
from transformers import PreTrainedTokenizerBase

from reward_models.columns import as_rows, check_baseline, completion_texts, log_mean, predict, rows_of, samples_of
from rlrec.encoders import TextEncoder, frozen_base, require_frozen, token_ids
from rlrec.explanations import ExplanationStore
from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.fitting import CrossFit

Template = Callable[[str, Mapping], str | list[dict]]


class FirstTokenScorer:
    """Equation 8: how strongly a frozen LLM answers "Yes" to "will the user like it?", given an explanation.

    s = sigmoid((logsumexp of the Yes tokens' logits - logsumexp of the No tokens' logits) / T), from the logits of the
    first token after the prompt.

    Args:
        model: the policy as a PeftModel, or as the plain model that TRL puts LoRA on (its adapter is switched off
            here: one copy of the weights is policy and scorer), or any other causal LM, frozen.
        tokenizer: its tokenizer.
        template: (explanation, row) -> the prompt, as text or as a list of chat messages
            (`rlrec.data.prompts.PromptTemplate(...).ctr`).
        temperature: T of equation 8.
        batch_size: prompts per forward pass; prompts of similar length share one.
        max_length: tokens of a prompt; a longer one loses its beginning, is counted in `truncated` and said once.
            None: as many as the model has positions for.

    Raises:
        ValueError: no spelling of Yes, or of No, is a single token; chat messages for a tokenizer without a chat
            template; a model that could be trained.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        temperature: float = 1.0,
        batch_size: int = 32,
        max_length: int | None = None,
    ):
        require_frozen(model, "LC scorer")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}.")
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.temperature, self.batch_size = temperature, batch_size
        self.max_length = max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.truncated = 0
        self.yes_ids, self.no_ids = single_token_spellings(tokenizer, "yes"), single_token_spellings(tokenizer, "no")

    def margins(self, explanations: Sequence[str], rows: Sequence[Mapping] | pl.DataFrame) -> torch.Tensor:
        """(N,) float32 on the CPU: logsumexp(Yes) - logsumexp(No), before the temperature.

        Args:
            explanations: N texts.
            rows: the N samples they explain, as dicts or as a samples frame.
        """
        prompts = [self.template(text, row) for text, row in zip(explanations, as_rows(rows), strict=True)]
        ids = [self._cut(row) for row in self._encode(prompts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.zeros(len(ids))
        with frozen_base(self.model) as base:
            takes_positions = "position_ids" in inspect.signature(base.forward).parameters
            for start in range(0, len(order), self.batch_size):
                rows_here = order[start : start + self.batch_size]
                inputs = _pad_left([ids[i] for i in rows_here], self.tokenizer.pad_token_id, base.device)
                if takes_positions:  # models with absolute positions would count the padding
                    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
                logits = base(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()  # (B, V)
                margin = logits[:, self.yes_ids].logsumexp(1) - logits[:, self.no_ids].logsumexp(1)
                out[rows_here] = margin.cpu()
        return out

    def scores(self, explanations: Sequence[str], rows: Sequence[Mapping] | pl.DataFrame) -> torch.Tensor:
        """(N,) probabilities s of equation 8."""
        return torch.sigmoid(self.margins(explanations, rows) / self.temperature)

    def _encode(self, prompts: list[str | list[dict]]) -> list[list[int]]:
        if not prompts or isinstance(prompts[0], str):
            return token_ids(self.tokenizer, prompts) if prompts else []
        if self.tokenizer.chat_template is None:
            raise ValueError(
                "The scorer's template gives chat messages, but the tokenizer has no chat template: use a template "
                "that gives plain text (conversational=False), or a chat model."
            )
        return self.tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=True
        )["input_ids"]

    def _cut(self, ids: list[int]) -> list[int]:
        if self.max_length is None or len(ids) <= self.max_length:
            return ids
        if not self.truncated:
            warnings.warn(
                f"A scorer prompt of {len(ids)} tokens was cut to its last {self.max_length} (said once; `truncated` "
                "counts them).",
                stacklevel=4,
            )
        self.truncated += 1
        return ids[-self.max_length :]


def single_token_spellings(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """Ids of all tokens that spell `word` and nothing else, in any case, with or without leading white space.

    Raises:
        ValueError: there is none.
    """
    # Ġ, Ċ: byte-level BPE's space and newline; ▁: SentencePiece's space
    spelling = re.compile(rf"[\s\u0120\u010a\u2581]*{re.escape(word)}", re.IGNORECASE)
    special = set(tokenizer.all_special_ids)
    ids = sorted(i for token, i in tokenizer.get_vocab().items() if i not in special and spelling.fullmatch(token))
    if not ids:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no single token for "
            f'"{word.capitalize()}" in any spelling, so the LC score (eq. 8) cannot be read off its first token: use '
            "another model, or an LC scorer with a tokenizer of its own."
        )
    return ids


class LCReward:
    """LC alignment: how close the frozen LLM's score s of the explanation comes to the label y.

    Equation 9 ("absolute"): 1 - |y - s|. "brier": 1 - (y - s)^2.

    Needs the dataset column `label` (0 or 1; None: the reward does not apply). Logs lc/score_positive,
    lc/score_negative (mean s per label) and lc/accuracy (s > 0.5 means 1).
    """

    def __init__(self, scorer: FirstTokenScorer, form: str = "absolute"):
        if form not in ("absolute", "brier"):
            raise ValueError(f'form must be "absolute" or "brier", not {form!r}.')
        self.scorer, self.form = scorer, form
        self.__name__ = "lc" if form == "absolute" else "lc_brier"

    @classmethod
    def from_context(cls, context) -> "LCReward":
        """See `reward_models.resolution`."""
        context.require("lc", "model", "tokenizer", "template")
        scorer = FirstTokenScorer(context.model, context.tokenizer, context.template, context.lc_temperature)
        return cls(scorer, context.lc_form)

    def __call__(self, prompts, completions, completion_ids=None, *, label, log_metric=None, **columns):
        rows = rows_of({**columns, "label": label}, len(completions))
        scores = self.scorer.scores(completion_texts(completions), rows).tolist()
        pairs = [(y, s) for y, s in zip(label, scores) if y is not None]
        log_mean(log_metric, "lc/score_positive", [s for y, s in pairs if y == 1])
        log_mean(log_metric, "lc/score_negative", [s for y, s in pairs if y == 0])
        log_mean(log_metric, "lc/accuracy", [float((s > 0.5) == (y == 1)) for y, s in pairs])
        return [None if y is None else lc_reward(y, s, self.form) for y, s in zip(label, scores)]


def lc_reward(y: float, s: float, form: str = "absolute") -> float:
    """Equation 9, or its Brier form, of a label and a score.

    >>> lc_reward(1, 0.75), lc_reward(0, 0.5, "brier")
    (0.75, 0.75)
    """
    error = abs(y - s)
    return 1.0 - (error if form == "absolute" else error**2)


class ICReward:
    """IC alignment, equation 13: how well a recommender predicts the label once it reads the explanation.

    R = 1 - |y - s_r| + shift, with s_r the recommender's probability given the explanation's embedding, s~ the one
    without it (z = 0), and

    | `shift` | term | pays for |
    | --- | --- | --- |
    | "on" (the paper) | abs(s_r - s~) | influence in either direction |
    | "signed" | abs(y - s~) - abs(y - s_r) | influence towards the label; costs as much away from it |
    | "off" | 0 | |

    `baseline` subtracts from every reward a number that depends on the row and its label but not on the completion:
    the same reward for no explanation ("without_explanation"), or for the row's newest stored one ("stored"). Most of
    the reward's variance lies between rows: a user whom the recommender misjudges gets a low reward whatever the text
    says. The critic, which reads the prompt, cannot take that part out, because it does not know y. The subtraction
    can, and since E_z[grad log pi(z|x) b(x, y)] = 0 it leaves the policy gradient's expectation as it is (of the
    unnormalised reward; equation 10 then divides by a smaller deviation, so the same clip keeps more of the signal).
    The price: the mean reward no longer tells how predictive explanations are, so read ic/accuracy_term instead.

    Needs the dataset columns label (0 or 1; None: does not apply), user_id, item_id and those that the vocabulary
    uses. Logs ic/accuracy_term and ic/shift_term (means of the two terms of R), ic/score_positive, ic/score_negative
    (mean s_r per label), and with a baseline ic/baseline.

    Args:
        recommender: a `CrossFit`: each row is judged by the model that was trained without its user (the default way,
            departure 4), or one `Recommender` for the in-sample form as printed. It must have one explanation slot.
        encoder: `encode(texts) -> (N, d)`, the one that made the embeddings which the recommender was trained on.
        vocabulary: the one the recommender was built with.
        shift: see above.
        accuracy: False leaves out the first term, 1 - |y - s_r|.
        baseline: "none", "without_explanation" or "stored".
        store: the explanations for "stored"; a row without one is compared with no explanation.

    Raises:
        ValueError: an unknown option, no term left, or "stored" without a store.
    """

    def __init__(
        self,
        recommender: Recommender | CrossFit,
        encoder: TextEncoder,
        vocabulary: Vocabulary,
        shift: str = "on",
        accuracy: bool = True,
        baseline: str = "none",
        store: ExplanationStore | None = None,
    ):
        if shift not in ("on", "off", "signed"):
            raise ValueError(f'shift must be "on", "off" or "signed", not {shift!r}.')
        if not accuracy and shift == "off":
            raise ValueError('accuracy=False with shift="off" leaves no term of equation 13.')
        check_baseline(baseline, store)
        self.recommender, self.encoder, self.vocabulary = recommender, encoder, vocabulary
        self.shift, self.accuracy, self.baseline, self.store = shift, accuracy, baseline, store
        self.__name__ = "ic"

    @classmethod
    def from_context(cls, context) -> "ICReward":
        """See `reward_models.resolution`."""
        context.require("ic", "recommender", "encoder", "vocabulary")
        return cls(
            context.recommender,
            context.encoder,
            context.vocabulary,
            shift=context.ic_shift,
            accuracy=context.ic_accuracy,
            baseline=context.ic_baseline,
            store=context.store,
        )

    def __call__(self, prompts, completions, completion_ids=None, *, label, log_metric=None, **columns):
        samples = samples_of(columns, self.vocabulary, "IC")
        known = [i for i, y in enumerate(label) if y is not None]
        y = torch.tensor([0.0 if value is None else float(value) for value in label])
        batch = self.vocabulary.encode(samples)
        with_text = self._predict(batch, samples, self.encoder.encode(completion_texts(completions)).unsqueeze(1))
        without = self._predict(batch, samples, None)
        accuracy, shift = ic_terms(y, with_text, without, self.shift)
        rewards = accuracy * self.accuracy + shift
        if self.baseline != "none":
            reference = without
            if self.baseline == "stored":
                reference = self._predict(batch, samples, self.store.embeddings_for(samples, self.encoder))
            accuracy_0, shift_0 = ic_terms(y, reference, without, self.shift)
            constants = accuracy_0 * self.accuracy + shift_0
            rewards = rewards - constants
            log_mean(log_metric, "ic/baseline", constants[known].tolist())
        log_mean(log_metric, "ic/accuracy_term", accuracy[known].tolist())
        log_mean(log_metric, "ic/shift_term", shift[known].tolist())
        log_mean(log_metric, "ic/score_positive", [float(with_text[i]) for i in known if label[i] == 1])
        log_mean(log_metric, "ic/score_negative", [float(with_text[i]) for i in known if label[i] == 0])
        return [None if value is None else reward for value, reward in zip(label, rewards.tolist())]

    def _predict(self, batch: Batch, samples: pl.DataFrame, explanations: torch.Tensor | None) -> torch.Tensor:
        return predict(self.recommender, batch, samples["user_id"].to_list(), explanations)


def ic_terms(
    y: torch.Tensor, with_text: torch.Tensor, without: torch.Tensor, shift: str = "on"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 13's two terms, each (N,), of labels, s_r and s~, all (N,).

    >>> y, s_r, s_0 = torch.tensor([1.0]), torch.tensor([0.25]), torch.tensor([0.5])
    >>> [float(term) for term in ic_terms(y, s_r, s_0)], float(ic_terms(y, s_r, s_0, "signed")[1])
    ([0.25, 0.25], -0.25)
    """
    accuracy = 1 - (y - with_text).abs()
    if shift == "on":
        return accuracy, (with_text - without).abs()
    if shift == "signed":
        return accuracy, (y - without).abs() - (y - with_text).abs()
    return accuracy, torch.zeros_like(accuracy)


def _pad_left(rows: list[list[int]], pad: int | None, device: torch.device) -> dict[str, torch.Tensor]:
    """Lists of ids -> (B, L) ids and mask with the last token of every row in the last column."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad or 0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}
