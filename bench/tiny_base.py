"""What a tiny base is good for: tune each role on it and score the held-out situations of three groups.

    python bench/tiny_base.py BASE [--examples 600] [--epochs 2] [--roles deacon,witness,boot]

Free greedy decoding in batches; a case is right when the JSON's action is. The groups: ``common`` (the
templates of the training sessions), ``wide`` (templates that only the base has read) and ``unseen``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from gt_plugins.rendering.conversation import Conversation, Message, Tool
from gt_plugins.rendering.render import TINY, Renderer
from gt_plugins.roles.profile import load_profile
from gt_plugins.sim.reports import role_report
from gt_plugins.sim.situations import POLICIES, situations, stream
from gt_plugins.sim.suite_text import decision_question
from gt_plugins.sim.teacher import decision_text, patrol_steps, report_of
from gt_plugins.training.adapter import add_adapter, load_base, pick_device, token_loss
from gt_plugins.training.loader import collate, plan_batches
from gt_plugins.training.recipe import load_recipe


def prime(role: str) -> str:
    rules = load_profile(role).rules
    return (
        f"[GAS TOWN] role:{role} session:0ee399c1\n{rules}\nCommands: `gt hook`, `gt mail inbox`, `gt prime`."
    )


def decision_conversation(role: str, situation, text: str, answer: bool) -> Conversation:
    question = decision_question(text, POLICIES[role].actions)
    messages = [Message("user", ({"type": "text", "text": question},))]
    if answer:
        messages.append(Message("assistant", ({"type": "text", "text": decision_text(role, situation)},)))
    return Conversation(load_profile(role).system, (), prime(role), tuple(messages))


def patrol_conversation(role: str, found, rng) -> Conversation:
    texts = [role_report(role, s, "common", rng) for s in found]
    prompt = f"[GAS TOWN] {role} <- daemon • patrol\n\nI am {role}. Begin the patrol."
    messages = [Message("user", ({"type": "text", "text": prompt},))]
    for step in patrol_steps(role, found):
        blocks = [{"type": "text", "text": step.text}] if step.text else []
        if step.command:
            blocks.append({"type": "tool_use", "name": "Bash", "input": {"command": step.command}})
        messages.append(Message("assistant", tuple(blocks)))
        if step.command:
            name = report_of(step.command)
            out = texts[int(name) - 1] if name else ("01.txt" if step.command == "ls reports" else "ok")
            messages.append(Message("user", ({"type": "tool_result", "content": out, "is_error": False},)))
    return Conversation(
        load_profile(role).system, (Tool("Bash", ("command",)),), prime(role), tuple(messages)
    )


def training_rows(role: str, renderer: Renderer, examples: int, patrols: bool):
    rng = stream(role, "training")
    rows = []
    found = situations(role, examples, rng)
    per = 5
    for start in range(0, examples, per):
        part = found[start : start + per]
        if patrols:
            rows += renderer.rows(patrol_conversation(role, part, rng), TINY)
        for s in part:
            rows += renderer.rows(
                decision_conversation(role, s, role_report(role, s, "common", rng), True), TINY
            )
    return rows


def constrained(text: str, actions: tuple[str, ...]) -> str:
    """The action that decoding under the suite's grammar would have written: the one that shares most."""
    written = text.partition('"action": "')[2]
    return max(actions, key=lambda a: next((i for i, c in enumerate(a + '"') if written[i : i + 1] != c), 99))


@torch.inference_mode()
def score(model, renderer: Renderer, role: str, pool: str, cases: int, device: str, show: int = 0) -> float:
    rng = stream(role, "held-out", pool)
    found = situations(role, cases, rng)
    prompts = [
        list(
            renderer.request(decision_conversation(role, s, role_report(role, s, pool, rng), False), TINY).ids
        )
        for s in found
    ]
    stop = next(iter(renderer.end_ids))
    right = 0
    for start in range(0, cases, 100):
        part = prompts[start : start + 100]
        longest = max(map(len, part))
        ids = torch.tensor([[stop] * (longest - len(p)) + p for p in part], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part], device=device)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop,
            use_cache=True,
        )
        for s, row in zip(found[start : start + 100], out[:, longest:].tolist(), strict=True):
            text = renderer.tokenizer.decode(row, skip_special_tokens=True).strip()
            ok = constrained(text, POLICIES[role].actions) == s.action
            facts_ok = s.facts.note(POLICIES[role].kinds) in text
            right += ok
            if not ok and show > 0:
                show -= 1
                print(
                    "   wrong:",
                    s.action,
                    "|",
                    s.facts.note(POLICIES[role].kinds),
                    "|",
                    text,
                    "| facts",
                    facts_ok,
                )
    return right / cases


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--roles", default="deacon,witness,boot")
    parser.add_argument("--patrols", action="store_true")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--show", type=int, default=0)
    args = parser.parse_args()
    device = pick_device()
    renderer = Renderer.from_folder(args.base)
    for role in args.roles.split(","):
        recipe = load_recipe("tiny", epochs=args.epochs, rate=args.rate, batch_tokens=args.batch_tokens)
        model = add_adapter(load_base(args.base, device).float(), recipe)
        rows = training_rows(role, renderer, args.examples, args.patrols)
        steps = plan_batches(rows, recipe.batch_tokens, recipe.epochs, recipe.seed)
        optim = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=recipe.rate, weight_decay=0
        )
        began = time.time()
        tokens = 0
        for number, step in enumerate(steps):
            share = min((number + 1) / max(1, recipe.warmup * len(steps)), (len(steps) - number) / len(steps))
            for group in optim.param_groups:
                group["lr"] = recipe.rate * share
            batch = [t.to(device) for t in collate([rows[i] for i in step.rows], 0)]
            loss, count = token_loss(model, *batch)
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optim.step()
            optim.zero_grad()
            tokens += int(batch[2].sum())
        took = time.time() - began
        model.eval()
        figures = {
            p: score(model, renderer, role, p, args.cases, device, args.show)
            for p in ("common", "wide", "unseen")
        }
        print(
            f"{role}: {args.examples} examples x {args.epochs}, {len(steps)} steps, {tokens} tokens, "
            f"{took:.0f} s ({tokens / took:.0f}/s), loss {float(loss / count):.3f}: "
            + "  ".join(f"{k} {v:.1%}" for k, v in figures.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
