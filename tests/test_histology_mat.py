"""Structs in MATLAB files: those that MATLAB itself wrote, as scipy's own tests have them, and HDF5."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from histology_files import ap_histology_v1, ap_histology_v2
from powerpixels.histology_mat import Struct, load_struct, variables
from powerpixels.stage import DataError
from scipy.io import matlab

WRITTEN = Path(matlab.__file__).parent / "tests" / "data"


@pytest.fixture
def written():
    if not WRITTEN.is_dir():
        pytest.skip("scipy is installed without its tests' files")
    return WRITTEN


@pytest.mark.parametrize("version", ["6.1_SOL2", "6.5.1_GLNX86", "7.1_GLNX86", "7.4_GLNX86"])
def test_structs_that_matlab_wrote(written, version):
    array = load_struct(written / f"teststructarr_{version}.mat", "teststructarr")
    found = [[array.get(k, field) for field in ("one", "two")] for k in range(len(array))]
    assert found == [[1, 2], ["number 1", "number 2"]]
    nested = load_struct(written / f"teststructnest_{version}.mat", "teststructnest")
    assert nested.get(0, "one") == 1
    assert nested.get(0, "two").get(0, "three") == "number 3"
    single = load_struct(written / f"teststruct_{version}.mat", "teststruct")
    assert single.get(0, "stringfield") == "Rats live on no evil star."
    np.testing.assert_allclose(single.get(0, "doublefield"), [[2**0.5, np.e, np.pi]])
    assert single.size(0, "doublefield") == (1, 3)


def test_objects_beside_what_is_wanted_do_not_hinder(written):
    """Tables and graphics handles are opaque objects, as a function's workspace is."""
    function = load_struct(written / "parabola.mat", "parabola")
    assert function.get(0, "separator") == "/"
    assert function.get(0, "function_handle").get(0, "workspace") is None


def test_damaged_files_that_matlab_or_others_wrote(written):
    with pytest.raises(DataError, match="malformed1.mat: expected a MATLAB file, it can't be read"):
        variables(written / "malformed1.mat")
    with pytest.raises(DataError, match="corrupted_zlib_data.mat: expected a MATLAB file, it can't be read"):
        load_struct(written / "corrupted_zlib_data.mat", "datagrid")
    with pytest.raises(DataError, match="test_empty_struct.mat: expected the variable a to be a struct"):
        load_struct(written / "test_empty_struct.mat", "a")
    with pytest.raises(DataError, match="testdouble to be a struct"):
        load_struct(written / "testhdf5_7.4_GLNX86.mat", "testdouble")
    assert variables(written / "testhdf5_7.4_GLNX86.mat") == ["testdouble"]


@pytest.mark.parametrize("hdf5", [False, True])
def test_both_formats_say_the_same(tmp_path, hdf5):
    points = np.array([[540.0, 60, 800], [500, 400, 760], [480, 420, 750]])
    ap_histology_v1(tmp_path / "a.mat", [points, points + 1], hdf5=hdf5)
    probes = load_struct(tmp_path / "a.mat", "probe_ccf")
    assert variables(tmp_path / "a.mat") == ["probe_ccf"]
    assert len(probes) == 2 and probes.has("points") and not probes.has("point")
    np.testing.assert_array_equal(probes.get(1, "points"), points + 1)
    assert probes.size(1, "points") == (3, 3) and probes.get(0, "trajectory_areas").size == 0
    with pytest.raises(DataError, match="a.mat: expected a field 'point', there is none"):
        probes.get(0, "point")

    ap_histology_v2(tmp_path / "b.mat", {"left": points, "right": points}, hdf5=hdf5)
    annotations = load_struct(tmp_path / "b.mat", "AP_histology_processing").get(0, "annotation")
    assert [annotations.get(k, "label") for k in range(2)] == ["left", "right"]
    slices = annotations.get(0, "vertices_ccf")
    assert isinstance(slices, Struct) and len(slices) == 4
    assert [slices.get(k, "dv").size for k in range(4)] == [0, 1, 0, 2]
    np.testing.assert_array_equal(slices.get(3, "dv"), [[400], [420]])
    assert [cell.size for cell in annotations.get(0, "vertices_histology")] == [0, 2, 0, 4]


def test_hdf5_helpers_have_matlabs_layout(tmp_path):
    """References in struct arrays, values transposed: or the tests above would prove nothing."""
    points = np.arange(45.0).reshape(15, 3)
    ap_histology_v1(tmp_path / "p.mat", [points, points], hdf5=True)
    with h5py.File(tmp_path / "p.mat") as file:
        fields = file["probe_ccf/points"]
        assert fields.shape == (1, 2) and h5py.check_ref_dtype(fields.dtype) is not None
        assert file[fields[0, 1]].shape == (3, 15)
