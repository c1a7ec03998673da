"""The survey's three axes and the catalogue of methods, as data.

A post-training stage is read on three independent axes (arXiv 2604.07941, sections 2.2, 3.2 and 3.3):

* **provenance**: who generated the trajectories, relative to the learner at the moment of update. It is computed from
  digests (`posttrain.artifacts.provenance`); the catalogue holds only what a method promises.
* **interface**: what form the supervision takes.
* **role**: what the stage is for. What it did is measured afterwards; support attrition is a diagnostic, never a role.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Provenance(StrEnum):
    """Relation between the sampler of the trajectories and the learner that is updated on them."""

    OFF_POLICY = "off-policy"  # a fixed batch, whoever sampled it; also the learner's own samples, filtered and kept
    ON_POLICY = "on-policy"  # sampled by the learner itself, within the stated staleness
    MIXED = "mixed"  # some of each, or samples staler than the bound


class Interface(StrEnum):
    """What form the supervision takes (survey section 3.2)."""

    TOKEN_TARGETS = "token-targets"
    PREFERENCES = "preferences"
    REWARDS = "rewards"
    PROCESS = "process"
    TEACHER = "teacher"


class Role(StrEnum):
    """What a stage is for (survey sections 3.3 and 3.4)."""

    EXPANSION = "expansion"  # answers that were out of reach come within reach
    RESHAPING = "reshaping"  # reachable answers become likelier
    CONSOLIDATION = "consolidation"  # gains survive hand-off, compression, removal of teacher or search


class Kind(StrEnum):
    """What an artifact is. The value is also the name of the KFP output that holds it, so it reads well as a node."""

    POLICY = "policy"
    PROBLEMS = "problems"
    TRAJECTORIES = "trajectories"
    EVALUATION = "evaluation"
    REWARD_MODEL = "reward_model"
    PROCESS_REWARD_MODEL = "process_reward_model"
    DIAGNOSIS = "diagnosis"
    RECOMMENDATION = "recommendation"
    DECISION = "decision"
    REGISTRATION = "registration"
    REPORT = "report"


@dataclass(frozen=True)
class Method:
    """One row of the catalogue.

    `provenance` is what the method promises, None where no trajectory is learned from; `role` is the role it is
    usually used for; `paper` an arXiv number or a URL.
    """

    name: str
    stage: str
    title: str
    provenance: Provenance | None = None
    interface: Interface | None = None
    role: Role | None = None
    paper: str = ""


_OFF, _ON, _MIXED = Provenance.OFF_POLICY, Provenance.ON_POLICY, Provenance.MIXED
_E, _R, _C = Role.EXPANSION, Role.RESHAPING, Role.CONSOLIDATION
_TOKENS, _REWARDS, _TEACHER = Interface.TOKEN_TARGETS, Interface.REWARDS, Interface.TEACHER
_PREFERENCES = Interface.PREFERENCES

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("supplied", "base", "A policy brought in from outside"),
        Method("prepare", "prepare", "Validate, dedupe, decontaminate and mix data"),
        Method("rollout", "rollout", "Sample a policy"),
        Method("verify", "verify", "Score trajectories"),
        Method("revise", "revise", "Have a policy criticise and revise answers", paper="2212.08073"),
        Method("step_labels", "step_labels", "Label steps by rollouts from them", paper="2312.08935"),
        Method("majority", "search", "Majority vote (self-consistency)", paper="2203.11171"),
        Method("best_of_n", "search", "Best of n by a reward model", paper="2110.14168"),
        Method("weighted_majority", "search", "Vote weighted by a reward model", paper="2206.02336"),
        Method("beam", "search", "Beam search over steps by a process reward model", paper="2408.03314"),
        Method("best_worst", "pairs", "Pairs of the best and the worst answers", paper="2404.19733"),
        Method("margin", "pairs", "Pairs of the answers farthest apart", paper="2404.19733"),
        Method("random", "pairs", "Random pairs of a better and a worse answer", paper="2404.19733"),
        Method("delta", "pairs", "Pairs of a stronger and a weaker policy's answers", paper="2507.06187"),
        Method("sft", "sft", "Supervised fine-tuning", _OFF, _TOKENS, _E, "2604.07941"),
        Method("dft", "sft", "Dynamic fine-tuning", _OFF, _TOKENS, _R, "2508.05629"),
        Method("anchored", "sft", "SFT anchored to a reference", _OFF, _TOKENS, _E, "2509.23753"),
        Method("asft", "sft", "Dynamic fine-tuning, anchored (ASFT)", _OFF, _TOKENS, _R, "2509.23753"),
        Method("proximal", "sft", "Proximal supervised fine-tuning (PSFT)", _OFF, _TOKENS, _E, "2508.17784"),
        Method("dpo", "preference", "Direct preference optimisation (DPO)", _OFF, _PREFERENCES, _R, "2305.18290"),
        Method("ipo", "preference", "Identity preference optimisation (IPO)", _OFF, _PREFERENCES, _R, "2310.12036"),
        Method("slic", "preference", "SLiC hinge loss", _OFF, _PREFERENCES, _R, "2305.10425"),
        Method("robust_dpo", "preference", "DPO for noisy preferences", _OFF, _PREFERENCES, _R, "2403.00409"),
        Method("exo", "preference", "Exact optimisation (EXO)", _OFF, _PREFERENCES, _R, "2402.00856"),
        Method("nca", "preference", "Noise contrastive alignment (NCA)", _OFF, _PREFERENCES, _R, "2402.05369"),
        Method("bco", "preference", "Binary classifier optimisation (BCO)", _OFF, _PREFERENCES, _R, "2404.04656"),
        Method("aot", "preference", "Alignment by optimal transport (AOT)", _OFF, _PREFERENCES, _R, "2406.05882"),
        Method("apo_zero", "preference", "Anchored preference, zero", _OFF, _PREFERENCES, _R, "2408.06266"),
        Method("apo_down", "preference", "Anchored preference, down", _OFF, _PREFERENCES, _R, "2408.06266"),
        Method("wpo", "preference", "Weighted preference optimisation (WPO)", _OFF, _PREFERENCES, _R, "2406.11827"),
        Method("rpo", "preference", "DPO with likelihood of the chosen (RPO)", _OFF, _PREFERENCES, _R, "2404.19733"),
        Method("mpo", "preference", "Mixed preference optimisation (MPO)", _OFF, _PREFERENCES, _R, "2411.10442"),
        Method("kto", "preference", "Kahneman–Tversky optimisation (KTO)", _OFF, _PREFERENCES, _R, "2402.01306"),
        Method("simpo", "preference", "SimPO, without reference", _OFF, _PREFERENCES, _R, "2405.14734"),
        Method("cpo", "preference", "Contrastive preference optimisation (CPO)", _OFF, _PREFERENCES, _R, "2401.08417"),
        Method("orpo", "preference", "Odds-ratio preference optimisation (ORPO)", _OFF, _PREFERENCES, _R, "2403.07691"),
        Method("reward_model", "reward_model", "Bradley–Terry reward model", _OFF, _PREFERENCES, _R, "2203.02155"),
        Method(
            "process_reward_model",
            "process_reward_model",
            "Process reward model",
            _OFF,
            Interface.PROCESS,
            _R,
            "2211.14275",
        ),
        Method("grpo", "rl", "GRPO", _ON, _REWARDS, _R, "2402.03300"),
        Method("dr_grpo", "rl", "Dr. GRPO", _ON, _REWARDS, _R, "2503.20783"),
        Method("dapo", "rl", "DAPO", _ON, _REWARDS, _R, "2503.14476"),
        Method("bnpo", "rl", "BNPO", _ON, _REWARDS, _R, "2506.02864"),
        Method("gspo", "rl", "GSPO", _ON, _REWARDS, _R, "2507.18071"),
        Method("cispo", "rl", "CISPO", _ON, _REWARDS, _R, "2506.13585"),
        Method("sapo", "rl", "SAPO", _ON, _REWARDS, _R, "2511.20347"),
        Method("luspo", "rl", "LUSPO", _ON, _REWARDS, _R, "2602.05261"),
        Method("vespo", "rl", "VESPO", _ON, _REWARDS, _R, "2602.10693"),
        Method("reinforce_pp", "rl", "REINFORCE++", _ON, _REWARDS, _R, "2501.03262"),
        Method("reinforce_pp_baseline", "rl", "REINFORCE++-baseline", _ON, _REWARDS, _R, "2501.03262"),
        Method("rloo", "rl", "RLOO", _ON, _REWARDS, _R, "2402.14740"),
        Method("linear", "merge", "Weighted average of policies", None, None, _C, "2203.05482"),
        Method("slerp", "merge", "Spherical interpolation", None, None, _C, "https://doi.org/10.1145/325165.325242"),
        Method("task_arithmetic", "merge", "Task arithmetic", None, None, _C, "2212.04089"),
        Method("ties", "merge", "TIES merging", None, None, _C, "2306.01708"),
        Method("dare", "merge", "DARE: task vectors thinned at random", None, None, _C, "2311.03099"),
        Method("student", "student", "Initialise a smaller student from a teacher", None, None, _C, "1910.01108"),
        Method("teacher_logits", "teacher_logits", "Store a teacher's top-k log-probabilities", paper="1503.02531"),
        Method("sequence_distillation", "distill", "Sequence-level distillation", _OFF, _TEACHER, _C, "1606.07947"),
        Method(
            "logit_distillation", "distill", "Logit distillation from stored top-k", _OFF, _TEACHER, _C, "1503.02531"
        ),
        Method("gkd", "distill", "Generalised knowledge distillation (GKD)", _MIXED, _TEACHER, _C, "2306.13649"),
        Method("on_policy_distillation", "distill", "On-policy distillation", _ON, _TEACHER, _C, "2306.13649"),
        Method(
            "self_distillation", "distill", "Self-distillation of a context (SDFT)", _ON, _TEACHER, _C, "2601.19897"
        ),
        Method("select", "select", "Keep problems that are never, sometimes or always right", paper="2512.07783"),
        Method("diagnose", "diagnose", "Find what holds a policy back", paper="2604.07941"),
        Method("recommend", "recommend", "Recommend the next steps"),
        Method("follow", "follow", "Follow a recommendation, or run a recipe in one pod"),
        Method("keep", "keep", "Keep a step or roll it back"),
        Method("evaluate", "evaluate", "Measure a policy on problems", paper="2107.03374"),
        Method("recall", "recall", "Bring back an artifact of an earlier run"),
        Method("contrast", "contrast", "Compare candidates measured alike", paper="2604.07941"),
        Method("data_version", "data_version", "Find new data, and the champion to start from"),
        Method("gate", "gate", "Decide whether the candidate may be registered"),
        Method("register", "register", "Register a gated policy"),
        Method("report", "report", "One page for the whole run"),
        Method("conclude", "conclude", "Say what came of a retraining"),
    )
}
