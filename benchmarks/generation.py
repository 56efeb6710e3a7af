"""Explanations for a whole dataset: tokens per second of `generate_explanations` beside plain `generate`.

    OMP_NUM_THREADS=1 python benchmarks/generation.py                # Llama 256 x 6, 512 prompts of 20 to 400 tokens
    python benchmarks/generation.py --preset 1b --prompts 4096       # on a GPU

The plain side pads on the left too and takes the same number of prompts at once, in the order of the dataset. Ours
takes long prompts first, once by number and once by `--batch_tokens` (prompt and new tokens, padding included). Every
completion has `--new_tokens` tokens, so the sides write equally many; random weights, and lengths drawn log-uniformly.
"""

import argparse
import random
import time

import torch
from measured import ratios, spread, tell
from ppo_vs_trl import PRESETS, build_model, build_tokenizer

from rlrec.policies.generation import generate_explanations


def draw_prompts(tokenizer, count: int, shortest: int, longest: int) -> list[str]:
    draw, words = random.Random(0), [word for word in tokenizer.get_vocab() if word.startswith("w")]
    lengths = [round(shortest * (longest / shortest) ** draw.random()) for _ in range(count)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths]


@torch.no_grad()
def plain(model, tokenizer, prompts: list[str], batch_size: int, new_tokens: int) -> list[str]:
    """What one writes without a library of one's own."""
    texts = []
    for start in range(0, len(prompts), batch_size):
        inputs = tokenizer(prompts[start : start + batch_size], padding=True, return_tensors="pt").to(model.device)
        written = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=new_tokens)
        texts += tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--shortest", type=int, default=20, help="tokens of a prompt")
    parser.add_argument("--longest", type=int, default=400)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--batch_tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    tokenizer, model = build_tokenizer(PRESETS[options.preset]["vocab_size"]), build_model(options, "CausalLM").eval()
    model.generation_config.eos_token_id = None  # all completions have one length
    prompts = draw_prompts(tokenizer, options.prompts, options.shortest, options.longest)
    same = {"max_new_tokens": options.new_tokens, "progress": None}
    sides = {
        "plain `generate`": lambda: plain(model, tokenizer, prompts, options.batch_size, options.new_tokens),
        f"long prompts first, {options.batch_size} at once": lambda: generate_explanations(
            model, tokenizer, prompts, batch_size=options.batch_size, **same
        ),
        f"long prompts first, {options.batch_tokens:,} tokens at once": lambda: generate_explanations(
            model, tokenizer, prompts, batch_size=len(prompts), batch_tokens=options.batch_tokens, **same
        ),
    }
    rates = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, write in sides.items():
            start = time.perf_counter()
            texts = write()
            rates[name].append(len(prompts) * options.new_tokens / (time.perf_counter() - start))
            assert len(texts) == len(prompts)
    (_, base), *ours = rates.items()
    for name, rate in ours:
        what = f"writing explanations, tokens/s: {name}"
        tell(what, spread(rate, 0), f"{spread(base, 0)} (plain `generate`)", ratios(rate, base))


if __name__ == "__main__":
    main()
