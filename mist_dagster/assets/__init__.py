"""The assets of a study, a module for each step from dataset.json to the scores."""

import dagster as dg

from mist_dagster.assets.analysis import analysis_assets
from mist_dagster.assets.checks import data_checks, raw_case_gates
from mist_dagster.assets.data_dump import data_dump_assets
from mist_dagster.assets.dataset import dataset_assets
from mist_dagster.assets.evaluation import evaluation_assets
from mist_dagster.assets.postprocessing import postprocessing_assets
from mist_dagster.assets.prediction import prediction_assets
from mist_dagster.assets.preprocessing import preprocessing_assets
from mist_dagster.assets.training import training_assets
from mist_dagster.freshness.checks import plan_job, status_checks
from mist_dagster.jobs import study_jobs
from mist_dagster.partitions import study_partitions
from mist_dagster.sensors import study_sensors
from mist_ops.study import Study


def study_definitions(study: Study) -> dg.Definitions:
    """The assets and jobs of one study."""
    partitions = study_partitions(study)
    assets = [
        *dataset_assets(study, partitions),
        *analysis_assets(study),
        *preprocessing_assets(study, partitions),
        *training_assets(study, partitions),
        *prediction_assets(study, partitions),
        *evaluation_assets(study),
        *postprocessing_assets(study),
        *data_dump_assets(study),
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=[status_checks(study), raw_case_gates(study), *data_checks(study)],
        jobs=[*study_jobs(study), plan_job(study)],
        sensors=study_sensors(study),
    )
