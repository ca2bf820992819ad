"""Decay, outer product and recurrence of neural_memory: what passes in other styles, and near misses that must not."""

import pytest

from tests.graders.checks import check_fails, check_never_passes, check_passes, grade, program

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def test_a_raw_parameter_that_scales_the_carried_state_is_a_learnable_decay():
    check_passes(program(decay="self.decay"), "learnable_decay")


def test_a_frozen_parameter_is_a_fixed_decay():
    source = program(init="self.decay.requires_grad_(False)")
    check_fails(source, "learnable_decay", because="not learned")
    assert grade(source).failure_category == "fixed_decay"


def test_a_buffer_is_a_fixed_decay():
    source = program(init="self.register_buffer('rate', torch.tensor(0.9))", decay="self.rate")
    check_fails(source, "learnable_decay", because="not learned")


def test_a_parameter_on_the_write_or_the_read_is_no_decay():
    check_fails(program(update="M = M + f * s.unsqueeze(-1) * w"), "learnable_decay", because="not scaled")
    check_fails(program(update="M = 0.9 * M + w", read="f * torch.einsum('bij,bj->bi', M, q[:, t])"), "learnable_decay", because="constant")


def test_a_state_beside_another_is_not_mistaken_for_it():
    """A normalizer is carried too, without gate: the matrix decides."""
    source = program(
        before="z = torch.zeros(B, D)",
        update="z = z + k[:, t]\nM = f * M + s.unsqueeze(-1) * w",
        read="(M @ q[:, t, :, None])[..., 0] / (1 + z)",
    )
    for criterion in ALL:
        check_passes(source, criterion)


def test_a_parameter_without_effect_does_not_pass():
    check_never_passes(program(decay="0.95 + 0 * self.decay"), "learnable_decay")


# --- outer product ---


def test_products_made_for_all_tokens_beforehand_pass():
    check_passes(program(before="kv = torch.einsum('bti,btj->btij', v, k)", write="kv[:, t]"), "outer_product")


def test_in_place_and_fused_updates_pass():
    check_passes(program(update="M = torch.baddbmm(f * M, (s * v[:, t]).unsqueeze(2), k[:, t].unsqueeze(1))"), "outer_product")


NOT_OUTER = {
    "elementwise": "torch.diag_embed(v[:, t] * k[:, t])",
    "a linear layer": "self.big(x[:, t]).view(B, D, D)",
    "with itself": "torch.einsum('bi,bj->bij', v[:, t], v[:, t])",
    "a broadcast vector": "v[:, t].unsqueeze(-1).expand(B, D, D)",
}


@pytest.mark.parametrize("write", NOT_OUTER.values(), ids=NOT_OUTER)
def test_what_is_no_product_of_value_and_key_does_not_pass(write):
    check_never_passes(program(init="self.big = nn.Linear(d, d * d)", write=write), "outer_product")


def test_the_product_of_a_vector_with_itself_fails():
    check_fails(program(init="self.big = nn.Linear(d, d * d)", write=NOT_OUTER["with itself"]), "outer_product", because="itself")


def test_a_linear_layer_that_predicts_the_write_fails():
    check_fails(program(init="self.big = nn.Linear(d, d * d)", write=NOT_OUTER["a linear layer"]), "outer_product", because="rank")


def test_a_product_that_is_not_added_does_not_pass():
    source = program(init="self.big = nn.Linear(d, d * d)", update="M = f * M + self.big(x[:, t]).view(B, D, D)")
    check_never_passes(source, "outer_product")


# --- recurrence ---


def test_a_state_made_anew_at_each_step_does_not_pass():
    check_never_passes(program(update="M = f * torch.zeros(B, D, D) + w"), "recurrent_update")


def test_an_update_that_is_not_assigned_does_not_pass():
    check_never_passes(program(update="f * M + s.unsqueeze(-1) * w"), "recurrent_update")


def test_a_state_that_outlives_the_call_fails():
    source = program(init="self.S = None", before="M = self.S if self.S is not None else M", update="M = f * M + w\nself.S = M.detach()")
    check_fails(
        source.replace("M = torch.zeros(B, D, D)", "M = torch.zeros(3, D, D)[:B] if B < 3 else torch.zeros(B, D, D)").replace(
            "self.S if self.S is not None", "self.S if self.S is not None and len(self.S) == B"
        ),
        "recurrent_update",
        because="earlier calls",
    )


def test_a_loop_backwards_through_time_does_not_pass():
    check_never_passes(program(before="q, k, v, x = q.flip(1), k.flip(1), v.flip(1), x.flip(1)"), "recurrent_update")


def test_one_update_for_the_whole_sequence_is_not_recurrent():
    source = program(before="M = torch.einsum('bti,btj->bij', v, k)\nreturn self.out(torch.einsum('bij,btj->bti', M, q))")
    check_fails(source, "recurrent_update", because="no step per token")
    assert grade(source).failure_category == "not_recurrent"
