"""The stages of a job, one file each, and the order in which a recipe has them run."""

from tempoquant.stages.activation_steps import ActivationSteps
from tempoquant.stages.activations import Activations
from tempoquant.stages.cached_features import CachedFeatures
from tempoquant.stages.correction import Correction
from tempoquant.stages.read import Read, probe_of
from tempoquant.stages.record import Record, record_trajectories
from tempoquant.stages.stage import Stage, ordered, run_stages, stage
from tempoquant.stages.state import JobState, TemporalInputs, WorkFolders
from tempoquant.stages.temporal_features import TemporalFeatures
from tempoquant.stages.train import Train, TrainingSettings
from tempoquant.stages.trainable import Trainable
from tempoquant.stages.transform import Transform
from tempoquant.stages.tuning import Tuning
from tempoquant.stages.units import Units, unit_identity

__all__ = [
    "ActivationSteps",
    "Activations",
    "CachedFeatures",
    "Correction",
    "JobState",
    "Read",
    "Record",
    "Stage",
    "TemporalFeatures",
    "TemporalInputs",
    "Train",
    "Trainable",
    "TrainingSettings",
    "Transform",
    "Tuning",
    "Units",
    "WorkFolders",
    "ordered",
    "probe_of",
    "record_trajectories",
    "run_stages",
    "stage",
    "unit_identity",
]
