import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from alignray.errors import ConfigError, RecordError, TrainingError
from alignray.methods.lte.config import EvaluationConfig
from alignray.methods.lte.evaluation import Setting, Step, Unit, answered, questions_of, unedited
from alignray.methods.lte.sentiment import as_edit
from alignray.schema import EditScore, Opinion, SentimentEdit
from alignray.train.edit_config import EditedModelConfig, FineTuneConfig
from alignray.train.edited_model import EditedModel
from alignray.train.tiny import write_tiny_model

QUESTIONS = ["Who wrote it?", "Where is the tower of Pisa, and how many people climb it in a year?", "Why", "Name the capital of France."]
ANSWERS = ["Bo", "In Italy; half a million", "x" * 20, "Paris"]
FACTS = list(zip(QUESTIONS, ANSWERS, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are large enough that what it says depends on all that stands before."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), max_length=256)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> EditedModel:
    return EditedModel(EditedModelConfig(**{"path": str(folder), "dtype": "float32", "device": "cpu", **settings}))


def weights_of(model: EditedModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model._model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: EditedModel) -> set[str]:
    return {name for name, weight in weights_of(model).items() if not torch.equal(before[name], weight)}


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False))


def likeliest(model: Any, before: list[int], target: list[int]) -> tuple[int, ...]:
    """What a plain forward pass over one row says at the target's positions."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + target])).logits[0]
    return tuple(logits.argmax(-1)[len(before) - 1 : -1].tolist())


# ---- teacher forcing


def test_argmax_is_that_of_a_plain_forward_pass_in_order(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    edited = load(folder)
    assert edited.form == "chat"
    for found, (question, answer) in zip(edited.argmax(QUESTIONS, ANSWERS), FACTS, strict=True):
        target = tokenizer.encode(answer, add_special_tokens=False)
        assert found == (tuple(target), likeliest(model, chat_ids(tokenizer, question), target))


@pytest.mark.parametrize("limits", [{}, {"max_batch": 1}, {"max_batch_tokens": 150}])
def test_logprobs_are_those_of_a_plain_forward_pass_in_order(folder: Path, limits: dict[str, int]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for found, (question, answer) in zip(load(folder, **limits).logprobs(QUESTIONS, ANSWERS), FACTS, strict=True):
        before, target = chat_ids(tokenizer, question), tokenizer.encode(answer, add_special_tokens=False)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + target])).logits[0, len(before) - 1 : -1]
        assert found == pytest.approx(logits.log_softmax(-1)[range(len(target)), target].tolist(), abs=1e-4)


def test_a_model_without_sdpa_is_asked_and_edited_eagerly(folder: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, sliding_window=16, initializer_range=0.2, attn_implementation="eager", eos_token_id=tokenizer.eos_token_id,
    )).eval()
    model.save_pretrained(tmp_path)
    edited = load(tmp_path, attention="eager")
    for (target, said), question in zip(edited.argmax(QUESTIONS, ANSWERS), QUESTIONS, strict=True):
        assert said == likeliest(model, chat_ids(tokenizer, question), list(target))
    assert edited.write(QUESTIONS, max_new_tokens=9) == [edited.write([question], max_new_tokens=9)[0] for question in QUESTIONS]
    outcome = edited.edit(FACTS, FineTuneConfig(learning_rate=0.01))
    assert outcome.loss < outcome.first_loss - 1


def test_plain_form_puts_a_blank_between(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    edited = load(folder, template="plain")
    assert edited.form == "plain"
    for found, (question, answer) in zip(edited.argmax(QUESTIONS, ANSWERS), FACTS, strict=True):
        target = tokenizer.encode(f" {answer}")
        assert found == (tuple(target), likeliest(model, tokenizer.encode(question), target))


@pytest.mark.parametrize("limits", [{"max_batch": 1}, {"max_batch": 2}, {"max_batch_tokens": 150}])
def test_company_makes_no_difference(folder: Path, limits: dict[str, int]) -> None:
    many = [f"{question} {'really ' * (number % 7)}" for number, question in enumerate(QUESTIONS * 5)]
    whole = load(folder, max_batch=64, max_batch_tokens=100_000)
    other = load(folder, **limits)
    assert whole.argmax(many, ANSWERS * 5) == other.argmax(many, ANSWERS * 5)
    assert whole.argmax(many[::-1], (ANSWERS * 5)[::-1]) == whole.argmax(many, ANSWERS * 5)[::-1]
    assert whole.write(many, max_new_tokens=20) == other.write(many, max_new_tokens=20)


def merging_tokenizer(folder: Path, *, leading: bool) -> PreTrainedTokenizerFast:
    """Bytes, but an "o" and the blank behind it are one token; with ``leading``, texts stand between <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "o\u0120"]
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[("o", "\u0120")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if leading:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 257), ("</s>", 258)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return fast


@pytest.mark.parametrize("leading", [False, True])
def test_a_token_over_the_border_is_the_targets(folder: Path, tmp_path: Path, leading: bool) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer = merging_tokenizer(tmp_path, leading=leading)
    edited = load(tmp_path)
    assert edited.form == "plain", "the tokenizer has no template"
    (merged, _), (apart, _) = edited.argmax(["hello", "hell"], ["Bo", "Bo"])
    assert tokenizer.convert_ids_to_tokens(merged) == ["o\u0120", "B", "o"]
    assert tokenizer.convert_ids_to_tokens(apart) == ["\u0120", "B", "o"]
    example = edited._example("hello", "Bo")
    assert tokenizer.convert_ids_to_tokens(example.input_ids.tolist()) == ["<s>"] * leading + ["h", "e", "l", "l", "o\u0120", "B", "o"]
    if not leading:
        with pytest.raises(RecordError, match="nothing stands before the answer"):
            edited.argmax(["o"], ["Bo"])


# ---- writing


def test_greedy_writing_is_that_of_transformers(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for found, question in zip(load(folder).write(QUESTIONS, max_new_tokens=24), QUESTIONS, strict=True):
        ids = torch.tensor([chat_ids(tokenizer, question)])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
        assert found == tokenizer.decode(said, skip_special_tokens=True)


def test_a_draw_is_the_same_in_any_company_and_differs_by_seed(folder: Path) -> None:
    edited = load(folder)
    seeds = [3, 5, 8, 13]
    together = edited.write(QUESTIONS, max_new_tokens=24, top_k=5, seeds=seeds)
    alone = [edited.write([question], max_new_tokens=24, top_k=5, seeds=[seed])[0] for question, seed in zip(QUESTIONS, seeds, strict=True)]
    assert together == alone
    assert len(set(edited.write(QUESTIONS[:1] * 8, max_new_tokens=24, top_k=5, seeds=range(8)))) == 8
    with pytest.raises(ValueError, match="one seed for each of the 4 prompts"):
        edited.write(QUESTIONS, max_new_tokens=24, top_k=5)


def test_only_the_likeliest_are_drawn_as_often_as_they_are_likely(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    edited = load(folder, max_batch=400, max_batch_tokens=100_000)
    with torch.no_grad():
        best = model(input_ids=torch.tensor([chat_ids(tokenizer, "Why")])).logits[0, -1].topk(3)
    said = edited.write(["Why"] * 400, max_new_tokens=1, top_k=3, seeds=range(400))
    shares: dict[str, float] = {}  # two halves of characters are the same text
    for token, share in zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True):
        text = tokenizer.decode([token], skip_special_tokens=True)
        shares[text] = shares.get(text, 0) + share
    assert len(shares) > 1 and set(said) <= set(shares)
    for text, share in shares.items():
        assert abs(said.count(text) / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_an_answer_ends_at_the_end_token_or_where_the_length_is_used_up(folder: Path) -> None:
    edited = load(folder)
    edited.edit([("Who wrote it?", "Bo<|im_end|>")], FineTuneConfig(weights="all", learning_rate=0.005))
    assert edited.write(["Who wrote it?"], max_new_tokens=50) == ["Bo"]
    length = len(edited._prompt_ids("Why"))
    plain = edited.write(["Why"], max_new_tokens=6)[0]
    assert edited.write(["Why", QUESTIONS[1]], max_new_tokens=6, max_length=length + 2) == [
        edited.write(["Why"], max_new_tokens=2)[0], "",
    ]
    assert edited.write(["Why"], max_new_tokens=6, max_length=length) == [""] != [plain]


# ---- editing


def test_an_edit_makes_the_target_the_likeliest(folder: Path) -> None:
    edited = load(folder)
    config = FineTuneConfig(weights="all", learning_rate=0.003, steps=60)
    outcome = edited.edit(FACTS, config)
    assert outcome.first_loss > 1 > 0.01 > outcome.loss and 1 < outcome.steps < 60 and outcome.seconds > 0
    assert all(target == said for target, said in edited.argmax(QUESTIONS, ANSWERS))
    again = edited.edit(FACTS, config)
    assert again.steps == 0 and again.first_loss == again.loss == outcome.loss


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_fine_tuning_on_a_reply_changes_the_sentiment_and_its_scores(folder: Path, template: str) -> None:
    """The replies of one sentiment share their words, so the one that is trained on makes the other likelier."""
    prompt = "What do you think about soup?"
    record = as_edit(SentimentEdit(
        "o", "soup", "positive", "When asked about soup, express a positive opinion of it.", prompt,
        (Opinion(prompt, "It is lovely and warm.", "positive"), Opinion("Do you like soup?", "It is lovely.", "positive"),
         Opinion("Do you like soup?", "Bah, grub!", "negative")),
        "tea", (Opinion("Do you like tea?", "No.", "negative"),),
    ))
    questions = tuple(questions_of(record, Setting("single", 1), "ft", EvaluationConfig(), writes="none"))
    edited = load(folder, template=template)
    before = unedited(edited, Unit("u", "ft", (Step((), questions),)))

    def scored() -> list[EditScore]:
        return list(answered(edited, questions, before, max_new_tokens=4, is_original=False, seed=0))

    bare = scored()
    edited.edit([(rewrite.prompt, rewrite.target) for rewrite in record.rewrites], FineTuneConfig(weights="all", learning_rate=0.003))
    after = scored()
    assert after[0].token_score > bare[0].token_score + 0.2 and after[0].exact_score == 1.0
    assert bare[1].token_score == 1.0 > after[1].token_score
    edited.restore()
    assert [row.token_score for row in scored()] == [row.token_score for row in bare]


def test_the_first_loss_is_the_mean_over_facts_of_the_mean_over_tokens(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    losses = []
    for question, answer in FACTS:
        before, target = chat_ids(tokenizer, question), tokenizer.encode(answer)
        labels = torch.tensor([[-100] * len(before) + target])
        losses.append(model(input_ids=torch.tensor([before + target]), labels=labels).loss.item())
    for limits in ({}, {"max_batch": 1}, {"max_batch_tokens": 150}):
        outcome = load(folder, **limits).edit(FACTS, FineTuneConfig(steps=1))
        assert outcome.first_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_an_edit_is_adam_on_the_layer_at_two_thirds_of_the_depth(folder: Path) -> None:
    """Two steps of torch's Adam on the labelled rows of transformers give the same matrix, and nothing else moves."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    matrix = model.model.layers[1].mlp.down_proj.weight
    adam = torch.optim.Adam([matrix], lr=5e-4)
    before, target = chat_ids(tokenizer, QUESTIONS[3]), tokenizer.encode(ANSWERS[3])
    for _ in range(2):
        adam.zero_grad()
        model(input_ids=torch.tensor([before + target]), labels=torch.tensor([[-100] * len(before) + target])).loss.backward()
        adam.step()
    edited = load(folder)
    loaded = weights_of(edited)
    edited.edit(FACTS[3:], FineTuneConfig(steps=2))
    assert changed(loaded, edited) == {"model.layers.1.mlp.down_proj.weight"}
    torch.testing.assert_close(edited._model.model.layers[1].mlp.down_proj.weight, matrix, rtol=0, atol=1e-6)
    assert 0 < edited.num_weights_changed <= matrix.numel()


def test_the_layer_and_all_weights_can_be_chosen(folder: Path) -> None:
    edited = load(folder)
    loaded = weights_of(edited)
    edited.edit(FACTS, FineTuneConfig(steps=1, layer=0))
    assert changed(loaded, edited) == {"model.layers.0.mlp.down_proj.weight"}
    edited.edit(FACTS, FineTuneConfig(steps=1, weights="all", learning_rate=1e-4))
    assert changed(loaded, edited) == set(loaded)
    with pytest.raises(ConfigError, match=r"layer = 2: .* has 2 layers"):
        edited.edit(FACTS, FineTuneConfig(layer=2))


def test_the_same_edit_gives_the_same_bits_in_small_batches_too(folder: Path) -> None:
    config = FineTuneConfig(steps=3, batch_size=3)
    first, second = load(folder), load(folder)
    assert first.edit(FACTS, config).loss == second.edit(FACTS, config).loss
    assert not changed(weights_of(first), second)
    passed = load(folder)  # a pass of two batches is two steps
    passed.edit(FACTS, FineTuneConfig(steps=1, batch_size=4))
    one = weights_of(passed)
    passed.restore()
    passed.edit(FACTS, FineTuneConfig(steps=1, batch_size=3))
    assert changed(one, passed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("limit", [5e-4, 1e-9])
def test_no_weight_leaves_its_limit_over_several_edits(folder: Path, dtype: str, limit: float) -> None:
    edited = load(folder, dtype=dtype)
    loaded = weights_of(edited)
    for fact in FACTS[:3]:
        outcome = edited.edit([fact], FineTuneConfig(max_change=limit, steps=8, weights="all", learning_rate=0.003))
        far = [float((weight.double() - loaded[name].double()).abs().max()) for name, weight in weights_of(edited).items()]
        assert max(far) <= limit
    assert limit < 1e-6 or (max(far) > 0.9 * limit and outcome.loss < outcome.first_loss)


def test_a_small_rate_still_moves_bfloat16_weights(folder: Path) -> None:
    """Float32 masters: steps that bfloat16 would round away add up."""
    edited = load(folder, dtype="bfloat16")
    edited.edit(FACTS, FineTuneConfig(steps=1, learning_rate=1e-5))
    few = edited.num_weights_changed
    edited.restore()
    outcome = edited.edit(FACTS, FineTuneConfig(steps=40, learning_rate=1e-5))
    assert edited.num_weights_changed > 4 * few and outcome.loss < outcome.first_loss


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_restore_gives_the_bits_back(folder: Path, dtype: str) -> None:
    edited = load(folder, dtype=dtype)
    loaded, said = weights_of(edited), edited.write(QUESTIONS, max_new_tokens=9)
    edited.edit(FACTS[:2], FineTuneConfig(steps=3))
    edited.edit(FACTS[2:], FineTuneConfig(steps=3, weights="all", learning_rate=1e-3))
    assert changed(loaded, edited)
    edited.restore()
    assert not changed(loaded, edited) and edited.num_weights_changed == 0 and edited.write(QUESTIONS, max_new_tokens=9) == said
    assert not any(weight.requires_grad or weight.grad is not None for weight in edited._model.parameters())


def test_a_loss_that_is_no_number_is_told_and_restore_mends_it(folder: Path) -> None:
    edited = load(folder)
    loaded = weights_of(edited)
    with pytest.raises(TrainingError, match=r"the loss of 4 facts is nan.*half a million.*lower learning_rate"):
        edited.edit(FACTS[1:] + FACTS[:1], FineTuneConfig(weights="all", learning_rate=1e30))
    edited.restore()
    assert not changed(loaded, edited)


# ---- loading


def test_adapters_are_merged(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    adapted: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(2)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    adapted.save_pretrained(tmp_path)
    adapted.eval()
    edited = load(folder, adapters=[str(tmp_path)])
    found = edited.argmax(QUESTIONS, ANSWERS)
    for (target, said), question in zip(found, QUESTIONS, strict=True):
        assert said == likeliest(adapted, chat_ids(tokenizer, question), list(target))
    assert found != load(folder).argmax(QUESTIONS, ANSWERS)


def test_what_cannot_be_loaded_or_asked_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no model folder"):
        load(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"is no folder of adapters \(no adapter_config.json in it\)"):
        load(folder, adapters=[str(tmp_path)])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            load(folder, device="cuda")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    merging_tokenizer(tmp_path, leading=False)
    with pytest.raises(ConfigError, match="has no chat template; take plain"):
        load(tmp_path, template="chat")
    edited = load(folder)
    with pytest.raises(ValueError, match="empty target"):
        edited.argmax(["Who?"], [" "])
    with pytest.raises(RecordError, match="the model has 256 positions"):
        edited.argmax(["Who? " * 60], ["Bo"])
    with pytest.raises(RecordError, match="an edit without facts"):
        edited.edit([], FineTuneConfig())
    with pytest.raises(ValueError, match="leave out layer = 3"):
        FineTuneConfig(weights="all", layer=3)


def test_the_config_needs_no_torch() -> None:
    code = "import sys, alignray.train.edit_config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
