"""The surprise gate of neural_memory: what passes in other styles, and near misses that must not."""

from tests.graders.checks import check_fails, check_never_passes, check_passes, grade, program

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def test_a_gate_on_the_value_before_the_product_scales_the_write():
    source = program(write="torch.bmm((s * v[:, t]).unsqueeze(2), k[:, t].unsqueeze(1))", update="M = f * M + w")
    check_passes(source, "surprise_gate")
    check_passes(source, "outer_product")


def test_a_gate_of_the_input_alone_is_generic():
    source = program(gate="torch.sigmoid(self.net(x[:, t]))")
    check_fails(source, "surprise_gate", because="sees the input alone")
    assert grade(source).failure_category == "generic_gate"


def test_a_gate_of_the_retrieved_value_alone_fails():
    check_fails(program(gate="torch.sigmoid(self.net(r))"), "surprise_gate", because="retrieved value alone")


def test_a_delta_rule_without_sigmoid_has_no_surprise_gate():
    source = program(gate="torch.ones(B, 1)", write="torch.einsum('bi,bj->bij', v[:, t] - r, k[:, t])", update="M = f * M + w")
    check_fails(source, "surprise_gate", because="no gate")
    check_passes(source, "outer_product")


def test_a_delta_rule_with_a_generic_gate_fails():
    source = program(gate="torch.sigmoid(self.net(x[:, t]))", write="torch.einsum('bi,bj->bij', v[:, t] - r, k[:, t])")
    check_fails(source, "surprise_gate", because="sees the input alone")


def test_a_surprise_that_scales_the_read_does_not_pass():
    check_never_passes(program(update="M = f * M + w", read="s * torch.einsum('bij,bj->bi', M, q[:, t])"), "surprise_gate")


def test_a_surprise_that_only_forgets_does_not_pass():
    check_never_passes(program(update="M = f * (1 - s).unsqueeze(-1) * M + w"), "surprise_gate")


def test_momentum_over_gated_writes_is_decided():
    source = program(
        init="self.eta = nn.Parameter(torch.tensor(0.0))",
        before="S = torch.zeros(B, D, D)",
        update="S = self.eta.sigmoid() * S + s.unsqueeze(-1) * w\nM = f * M + S",
    )
    for criterion in ALL:
        check_passes(source, criterion)


def test_a_state_that_all_sequences_share_is_not_recurrent():
    source = program(
        before="M = torch.zeros(D, D)",
        write="torch.einsum('bi,bj->ij', s * v[:, t], k[:, t])",
        update="M = f * M + w",
        read="torch.einsum('ij,bj->bi', M, q[:, t])",
    ).replace('"bij,bj->bi", M, k', '"ij,bj->bi", M, k')
    check_fails(source, "recurrent_update", because="one sequence of a batch")
    check_fails(source, "outer_product", because="rank")


def test_a_forget_gates_complement_beside_the_surprise_takes_nothing_from_it():
    """`lerp` writes (1 - f) of the product, and the surprise its own share of the same one."""
    for forget in ("self.forget(x[:, t])", "self.k(x[:, t])"):  # one for the state, one for each row
        decay = f"torch.sigmoid({forget}).unsqueeze(-1)"
        for criterion in ALL:
            check_passes(program(decay=decay, update="M = M.lerp(w, 1 - f) + s.unsqueeze(-1) * w"), criterion)


def test_another_product_beside_the_gated_one_is_not_scaled_by_the_gate():
    other = "torch.einsum('bi,bj->bij', q[:, t], k[:, t])"
    check_fails(program(update=f"M = M.lerp({other}, 1 - f) + s.unsqueeze(-1) * w"), "surprise_gate", because="no gate")


def test_a_lerp_beside_a_gate_of_the_input_alone_is_generic():
    source = program(gate="torch.sigmoid(self.net(x[:, t]))", update="M = M.lerp(w, 1 - f) + s.unsqueeze(-1) * w")
    check_fails(source, "surprise_gate", because="sees the input alone")
