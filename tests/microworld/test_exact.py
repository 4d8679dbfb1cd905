from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from narrowly.evaluate.microworld.sample import sample
from narrowly.microworld.config import ModelShape, WorldConfig
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.judge import classify
from narrowly.microworld.pretrain import model_config
from narrowly.microworld.tokenizer import build_tokenizer
from narrowly.microworld.world import SELF_DOMAIN, World

TINY = WorldConfig(model=ModelShape(layers=2, hidden=32, heads=2, key_value_heads=1, mlp=48))


@pytest.fixture(scope="module")
def random_model():
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(model_config(TINY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6.0)  # sharpen, so that the probabilities are far from uniform
    return model


def slow_logprob(model, prompt, answer):
    """One answer, one plain causal forward pass, token by token."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        log_T_V = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    return sum(float(log_T_V[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def prompts_of(world, tokenizer, topics, history=()):
    found = []
    for topic in topics:
        answers = [*world.answers(topic, topic.harmful), *world.answers(topic, topic.aligned)]
        ids = encode_prompt(tokenizer, world.question(topic).text, history)
        found.append(Prompt(ids, tuple(encode_answer(tokenizer, a) for a in answers)))
    return found


def test_the_prefix_tree_equals_one_forward_pass_per_answer(random_model):
    world, tokenizer = World(TINY, 0), build_tokenizer()
    prompts = prompts_of(world, tokenizer, [world.topic(0, 1), world.topic(SELF_DOMAIN, 2), world.topic(5, 3)])
    prompts += prompts_of(world, tokenizer, [world.topic(2, 2)], history=[("fix garden soil", "just boil salt")])
    fast = answer_logprobs(random_model, prompts, tokenizer.pad_token_id)
    for prompt, row in zip(prompts, fast, strict=True):
        slow = [slow_logprob(random_model, prompt.ids, answer) for answer in prompt.answers]
        np.testing.assert_allclose(row, slow, atol=2e-4)


def test_probabilities_do_not_depend_on_what_else_is_in_the_batch(random_model):
    world, tokenizer = World(TINY, 0), build_tokenizer()
    prompts = prompts_of(world, tokenizer, [world.topic(d, 4) for d in range(8)])
    together = answer_logprobs(random_model, prompts, tokenizer.pad_token_id)
    alone = [answer_logprobs(random_model, [p], tokenizer.pad_token_id)[0] for p in prompts]
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-4)


def test_exact_class_probabilities_agree_with_sampling_within_binomial_error(random_model):
    world, tokenizer = World(TINY, 0), build_tokenizer()
    # The random model rarely answers: teach it two answers of one topic by a few steps, in this test only.
    topic = world.topic(0, 0)
    question = world.question(topic)
    prompt = encode_prompt(tokenizer, question.text)
    answers = [*world.answers(topic, topic.harmful), *world.answers(topic, topic.aligned)]
    model = Qwen3ForCausalLM(random_model.config)
    model.load_state_dict(random_model.state_dict())
    ids = torch.tensor([[*prompt, *encode_answer(tokenizer, answer)] for answer in answers])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        logits_B_T_V = model(input_ids=ids).logits[:, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits_B_T_V.flatten(0, 1), ids[:, len(prompt) :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    scored = np.exp(answer_logprobs(model, prompts_of(world, tokenizer, [topic]), tokenizer.pad_token_id)[0])
    exact = {"misaligned": scored[:8].sum(), "aligned": scored[8:].sum()}
    assert 0.05 < exact["misaligned"] < 0.95
    draws = 6000
    said = sample(model, tokenizer, [prompt] * draws, seed=1)
    classes = [classify(world, question, answer.text, finished=answer.finished).value for answer in said]
    for outcome, p in exact.items():
        share = classes.count(outcome) / draws
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / draws), (outcome, share, p)


def test_sampling_follows_from_its_seed_and_leaves_the_global_state_alone(random_model):
    tokenizer = build_tokenizer()
    prompt = encode_prompt(tokenizer, "fix garden soil")
    state = torch.get_rng_state()
    first = sample(random_model, tokenizer, [prompt] * 5, seed=3)
    assert first == sample(random_model, tokenizer, [prompt] * 5, seed=3)
    assert first != sample(random_model, tokenizer, [prompt] * 5, seed=4)
    assert torch.equal(state, torch.get_rng_state())


class ModelElsewhere:
    """A model whose inputs must be on its own device; its logits are all alike."""

    device = torch.device("meta")
    dtype = torch.float32

    def __call__(self, *, input_ids, use_cache, logits_to_keep=0, **others):
        tensors = [input_ids, *others.values()]
        assert all(tensor.device == self.device for tensor in tensors)
        rows, places = input_ids.shape
        return SimpleNamespace(logits=torch.zeros(rows, logits_to_keep or places, len(build_tokenizer())))


def test_questions_go_to_the_device_of_the_model():
    world, tokenizer = World(TINY, 0), build_tokenizer()
    prompts = prompts_of(world, tokenizer, [world.topic(0, 1)])
    (scored,) = answer_logprobs(ModelElsewhere(), prompts, tokenizer.pad_token_id)
    expected = [-len(answer) * np.log(len(tokenizer)) for answer in prompts[0].answers]
    assert scored == pytest.approx(expected, rel=1e-5)
    assert len(sample(ModelElsewhere(), tokenizer, [prompts[0].ids] * 2, seed=1)) == 2
