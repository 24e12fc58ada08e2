// The only file here that knows Python: checks arrays, releases the GIL, forwards to the sampler.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <vector>

#include "grid_gaussian.h"
#include "sampler.h"

namespace py = pybind11;

namespace {

[[noreturn]] void fail(const std::string& message) { throw py::value_error(message); }

std::string shape_text(const py::array& a) { return py::str(py::tuple(a.attr("shape"))).cast<std::string>(); }

// `value` as an array of T: exact dtype, C order, aligned. Never a silent copy: what is written to it would
// be lost.
template <typename T>
py::array array_of(const char* name, const py::object& value) {
    const py::dtype wanted = py::dtype::of<T>();
    const std::string expected = "expected a NumPy array of " + py::str(wanted).cast<std::string>();
    if (!py::isinstance<py::array>(value))
        throw py::type_error(std::string(name) + " is of type " + Py_TYPE(value.ptr())->tp_name + ", " +
                             expected + ": convert it with numpy.asarray");
    const py::array a = py::reinterpret_borrow<py::array>(value);
    if (!a.dtype().equal(wanted))
        throw py::type_error(std::string(name) + " has dtype " + py::str(a.dtype()).cast<std::string>() +
                             ", " + expected + ": convert it with astype");
    if (!(a.flags() & py::array::c_style) || reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T) != 0)
        fail(std::string(name) + " is not contiguous in C order and aligned, " + expected +
             " that is: copy it");
    return a;
}

template <typename T>
const T* data_of(const py::array& a) {
    return static_cast<const T*>(a.data());
}

template <typename T>
const T* vector(const char* name, const py::object& value, py::ssize_t length) {
    const py::array a = array_of<T>(name, value);
    if (a.ndim() != 1 || a.shape(0) != length)
        fail(std::string(name) + " has shape " + shape_text(a) + ", expected (" + std::to_string(length) +
             ",): one entry a row");
    return data_of<T>(a);
}

diffsmooth::Law law_of(const py::object& table, int column_bits, int reach) {
    if (column_bits < 1 || column_bits > 20)
        fail("column_bits is " + std::to_string(column_bits) + ", expected 1 to 20");
    const std::uint64_t* data = vector<std::uint64_t>("table", table, py::ssize_t(1) << column_bits);
    return {data, column_bits, reach};
}

using Key = std::array<std::uint32_t, 8>;  // its 32 bytes as little-endian words

diffsmooth::Rows rows_of(const Key& key, const py::object& phases, const py::object& images,
                         const py::object& samples) {
    const py::array first = array_of<std::uint64_t>("images", images);
    if (first.ndim() != 1)
        fail("images has shape " + shape_text(first) + ", expected (rows,): one entry a row");
    const py::ssize_t rows = first.shape(0);
    return {{key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]},
            vector<std::uint64_t>("phase", phases, rows),
            vector<std::uint64_t>("images", images, rows),
            vector<std::uint64_t>("samples", samples, rows),
            static_cast<std::size_t>(rows)};
}

diffsmooth::Execution execution_of(int threads, const std::string& variant) {
    if (threads < 0)
        fail("threads is " + std::to_string(threads) +
             ", expected 0 (one a processor) or more: use 0 when in doubt");
    return {static_cast<unsigned>(threads), variant};
}

// Coordinates a row of `out` holds, once `out` is [rows, …] and `from` is [N, …] with the same row shape.
std::size_t dimension_of(const char* name, const py::array& from, const py::array& out, std::size_t rows) {
    bool same =
        from.ndim() == out.ndim() && out.ndim() >= 2 && static_cast<std::size_t>(out.shape(0)) == rows;
    std::size_t dimension = 1;
    for (py::ssize_t axis = 1; same && axis < out.ndim(); ++axis) {
        same = from.shape(axis) == out.shape(axis);
        dimension *= static_cast<std::size_t>(out.shape(axis));
    }
    if (!same)
        fail("out has shape " + shape_text(out) + ", expected (" + std::to_string(rows) +
             ", …) with the row shape of " + name + " " + shape_text(from) +
             ": give both in [C,H,W] order or both flat");
    return dimension;
}

// The source row of each output row; null where no index is given and rows map one to one.
const std::int64_t* source_of(const char* name, const py::object& index, const py::array& from,
                              std::size_t rows) {
    const std::int64_t available = from.shape(0);
    if (index.is_none()) {
        if (static_cast<std::size_t>(available) != rows)
            fail(std::string(name) + " has " + std::to_string(available) + " rows, expected " +
                 std::to_string(rows) + ": pass `rows` to say which row each output row starts from");
        return nullptr;
    }
    const std::int64_t* source = vector<std::int64_t>("rows", index, static_cast<py::ssize_t>(rows));
    for (std::size_t r = 0; r < rows; ++r)
        if (source[r] < 0 || source[r] >= available)
            fail("rows[" + std::to_string(r) + "] is " + std::to_string(source[r]) + ", expected 0 to " +
                 std::to_string(available - 1) + ": it numbers the rows of " + name);
    return source;
}

py::array_t<std::int32_t> grid_noise(const py::object& table, int column_bits, int reach, const Key& key,
                                     const py::object& phases, const py::object& images,
                                     const py::object& samples, std::int64_t count, int threads,
                                     const std::string& variant) {
    if (count < 1)
        fail("count is " + std::to_string(count) + ", expected at least 1: it is the coordinates a row");
    const diffsmooth::Law law = law_of(table, column_bits, reach);
    const diffsmooth::Rows rows = rows_of(key, phases, images, samples);
    const diffsmooth::Execution how = execution_of(threads, variant);
    py::array_t<std::int32_t> out({static_cast<py::ssize_t>(rows.count), static_cast<py::ssize_t>(count)});
    std::int32_t* data = out.mutable_data();
    py::gil_scoped_release release;
    diffsmooth::grid_noise(law, rows, static_cast<std::size_t>(count), data, how);
    return out;
}

// noisy_images and add_noise differ in what they start from, and in nothing that is checked here.
template <typename T, typename Fill>
void apply(const char* name, Fill* fill, const py::object& table, int column_bits, int reach, const Key& key,
           const py::object& phases, const py::object& from, const py::object& index,
           const py::object& images, const py::object& samples, const py::object& out, int threads,
           const std::string& variant) {
    const diffsmooth::Law law = law_of(table, column_bits, reach);
    const diffsmooth::Rows rows = rows_of(key, phases, images, samples);
    const py::array start = array_of<T>(name, from);
    py::array target = array_of<float>("out", out);
    if (!target.writeable()) fail("out is read-only, expected a writable array: pass a fresh one");
    const std::size_t dimension = dimension_of(name, start, target, rows.count);
    const std::int64_t* source = source_of(name, index, start, rows.count);
    const diffsmooth::Execution how = execution_of(threads, variant);
    float* filled = static_cast<float*>(target.mutable_data());
    py::gil_scoped_release release;
    fill(law, rows, dimension, data_of<T>(start), source, filled, how);
}

void noisy_images(const py::object& table, int column_bits, int reach, const Key& key,
                  const py::object& phases, const py::object& pixels, const py::object& rows,
                  const py::object& images, const py::object& samples, const py::object& out, int threads,
                  const std::string& variant) {
    apply<std::uint8_t>("pixels", diffsmooth::noisy_images, table, column_bits, reach, key, phases, pixels,
                        rows, images, samples, out, threads, variant);
}

void add_noise(const py::object& table, int column_bits, int reach, const Key& key, const py::object& phases,
               const py::object& values, const py::object& rows, const py::object& images,
               const py::object& samples, const py::object& out, int threads, const std::string& variant) {
    apply<float>("values", diffsmooth::add_noise, table, column_bits, reach, key, phases, values, rows,
                 images, samples, out, threads, variant);
}

ds_chacha_key chacha_key(const Key& key) {
    ds_chacha_key made;
    std::copy(key.begin(), key.end(), made.word);
    return made;
}

// One subkey and one raw block, for the published test vectors.
std::vector<std::uint32_t> hchacha20(const Key& key, std::uint64_t first, std::uint64_t second) {
    const ds_chacha_key subkey = ds_hchacha(chacha_key(key), first, second);
    return {std::begin(subkey.word), std::end(subkey.word)};
}

std::vector<std::uint32_t> chacha20(const Key& key, std::uint64_t block, std::uint64_t nonce) {
    const ds_chacha_block made = ds_chacha(chacha_key(key), block, nonce);
    return {std::begin(made.word), std::end(made.word)};
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Compiled half of diffsmooth_trt.noise; call it through diffsmooth_trt.noise.cpu.";
    m.attr("noise_version") = DS_NOISE_VERSION;
    m.def("variants", &diffsmooth::variants);
    m.def("hchacha20", &hchacha20, py::arg("key"), py::arg("first"), py::arg("second"));
    m.def("chacha20", &chacha20, py::arg("key"), py::arg("block"), py::arg("nonce"));
    m.def("grid_noise", &grid_noise, py::arg("table"), py::arg("column_bits"), py::arg("reach"),
          py::arg("key"), py::arg("phases"), py::arg("images"), py::arg("samples"), py::arg("count"),
          py::arg("threads"), py::arg("variant"));
    m.def("noisy_images", &noisy_images, py::arg("table"), py::arg("column_bits"), py::arg("reach"),
          py::arg("key"), py::arg("phases"), py::arg("pixels"), py::arg("rows"), py::arg("images"),
          py::arg("samples"), py::arg("out"), py::arg("threads"), py::arg("variant"));
    m.def("add_noise", &add_noise, py::arg("table"), py::arg("column_bits"), py::arg("reach"), py::arg("key"),
          py::arg("phases"), py::arg("values"), py::arg("rows"), py::arg("images"), py::arg("samples"),
          py::arg("out"), py::arg("threads"), py::arg("variant"));
}
