"""The method against the numbers of the authors' program (`reference/README.md`).

Every number compared comes from a public function of `diffguard`, on networks with the files'
weights. DIFFGUARD_REFERENCE points the test at another folder of files of the same form. What the
files do not reach, the modules `beyond_*.py` compare with libraries and laws.
"""

import pytest
import torch

from tests.reference.beyond_guidance import (
    test_a_large_classifier_is_shown_fewer_crops_at_once,
    test_boxes_lie_inside_the_image,
    test_boxes_reach_all_of_the_image,
    test_clean_grad_shows_the_model_s_estimate_where_all_is_noise_and_the_state_where_none_is,
    test_crops_are_nearest_neighbour,
    test_crops_are_shown_in_as_many_calls_as_are_asked_for,
    test_crops_of_an_image_do_not_depend_on_its_neighbours,
    test_crops_without_a_size_are_refused,
    test_gradient_is_the_same_inside_inference_mode,
    test_gradient_of_each_row_is_that_of_its_own_crops,
    test_gradient_of_whole_images_does_not_care_for_the_options_of_crops,
    test_image_generator_takes_every_part,
    test_masks_of_one_value,
    test_rows_without_label_are_not_shown_and_get_no_gradient,
    test_scales_without_effect,
)
from tests.reference.beyond_outcomes import (
    test_an_image_stops_as_if_it_were_alone,
    test_calibration_comes_as_near_to_the_depth_as_any_threshold,
    test_calibration_reaches_the_mean_depth,
    test_cam_has_the_size_of_the_images,
    test_cam_is_the_same_inside_inference_mode,
    test_cam_of_a_vision_transformer,
    test_each_map_is_scaled_by_itself,
    test_impossible_depth_is_refused,
    test_metrics_equal_scikit_learn,
    test_metrics_equal_scikit_learn_on_any_ties,
    test_metrics_of_what_cannot_be_compared_are_refused,
    test_number_of_thresholds_must_fit,
    test_one_quality_has_the_threshold_of_its_own,
    test_several_qualities_reach_the_mean_depth_together,
)
from tests.reference.beyond_schedule import (
    test_a_schedule_may_end_on_pure_noise,
    test_add_noise_and_velocity_equal_diffusers,
    test_configs_that_are_not_known_are_refused,
    test_defaults_of_the_published_models,
    test_given_betas_stay_as_they_are,
    test_impossible_spacings_are_refused,
    test_levels_fit_together,
    test_published_spacings,
    test_reads_any_diffusers_config,
    test_schedules_that_the_files_lack,
    test_synthesis_starts_at_the_level_that_inversion_reached,
    test_what_a_config_leaves_out_is_as_its_diffusers_scheduler_assumes,
)
from tests.reference.files import GroupFile, folder
from tests.reference.outcomes import (
    check_cam,
    check_cfg_end_to_end,
    check_gdm_early_stop,
    check_metrics,
)
from tests.reference.solvers import (
    check_gdm_denoise,
    check_gdm_guidance,
    check_gdm_inversion,
    check_ldm_denoise,
    check_ldm_inversion,
    check_schedule,
)

__all__ = [
    "test_a_large_classifier_is_shown_fewer_crops_at_once",
    "test_a_schedule_may_end_on_pure_noise",
    "test_add_noise_and_velocity_equal_diffusers",
    "test_an_image_stops_as_if_it_were_alone",
    "test_boxes_lie_inside_the_image",
    "test_boxes_reach_all_of_the_image",
    "test_calibration_comes_as_near_to_the_depth_as_any_threshold",
    "test_calibration_reaches_the_mean_depth",
    "test_cam_has_the_size_of_the_images",
    "test_cam_is_the_same_inside_inference_mode",
    "test_cam_of_a_vision_transformer",
    "test_clean_grad_shows_the_model_s_estimate_where_all_is_noise_and_the_state_where_none_is",
    "test_configs_that_are_not_known_are_refused",
    "test_crops_are_nearest_neighbour",
    "test_crops_are_shown_in_as_many_calls_as_are_asked_for",
    "test_crops_of_an_image_do_not_depend_on_its_neighbours",
    "test_crops_without_a_size_are_refused",
    "test_defaults_of_the_published_models",
    "test_each_map_is_scaled_by_itself",
    "test_given_betas_stay_as_they_are",
    "test_gradient_is_the_same_inside_inference_mode",
    "test_gradient_of_each_row_is_that_of_its_own_crops",
    "test_gradient_of_whole_images_does_not_care_for_the_options_of_crops",
    "test_image_generator_takes_every_part",
    "test_impossible_depth_is_refused",
    "test_impossible_spacings_are_refused",
    "test_levels_fit_together",
    "test_masks_of_one_value",
    "test_metrics_equal_scikit_learn",
    "test_metrics_equal_scikit_learn_on_any_ties",
    "test_metrics_of_what_cannot_be_compared_are_refused",
    "test_number_of_thresholds_must_fit",
    "test_one_quality_has_the_threshold_of_its_own",
    "test_published_spacings",
    "test_reads_any_diffusers_config",
    "test_rows_without_label_are_not_shown_and_get_no_gradient",
    "test_scales_without_effect",
    "test_schedules_that_the_files_lack",
    "test_several_qualities_reach_the_mean_depth_together",
    "test_synthesis_starts_at_the_level_that_inversion_reached",
    "test_what_a_config_leaves_out_is_as_its_diffusers_scheduler_assumes",
]

CHECKS = {
    "schedule": check_schedule,
    "gdm_inversion": check_gdm_inversion,
    "gdm_early_stop": check_gdm_early_stop,
    "gdm_guidance": check_gdm_guidance,
    "gdm_denoise": check_gdm_denoise,
    "ldm_inversion": check_ldm_inversion,
    "ldm_denoise": check_ldm_denoise,
    "cam": check_cam,
    "metrics": check_metrics,
    "cfg_end_to_end": check_cfg_end_to_end,
}


def test_groups_are_complete():
    assert {path.stem for path in folder().glob("*.npz")} == set(CHECKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("group", CHECKS)
def test_group(group, dtype):
    file = GroupFile(group)
    data_sets = file.data_sets(dtype)
    assert data_sets, f"{group} is empty"
    for data in data_sets:
        before = len(file.compared)
        CHECKS[group](data)
        assert len(file.compared) > before, f"nothing of {group} {data.prefix} was compared"
    print(f"{group}: compared {', '.join(sorted(file.compared))}")  # noqa: T201
    assert not file.unaccounted(), "arrays that are neither compared nor used as input"
