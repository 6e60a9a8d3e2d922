// Parts of the attention kernel: two products of shifted rows.

#pragma once

#include "vectors.h"

constexpr double MASK_EPS = 1e-8;  // as in models/local_attention/tiled.py

// out[j] = sum over d of a[d] * b[d] shifted by j, for N shifts at once.
template <class T, int N>
static void dots_block(T* out, const T* a, int64_t a_step, const T* b, int64_t b_step, int64_t dim) {
    Vec<T> sums[N];
    for (int j = 0; j < N; ++j) sums[j] = fill<T>(0);
    for (int64_t d = 0; d < dim; ++d) {
        const Vec<T> one = load(a + d * a_step);
        const T* other = b + d * b_step;
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j) sums[j] += one * load(other + j);
    }
    for (int j = 0; j < N; ++j) store(out + j * LANES<T>, sums[j]);
}

template <class T>
static void dots(T* out, const T* a, int64_t a_step, const T* b, int64_t b_step, int64_t dim, int64_t count) {
    while (count > 0) {
        int64_t done;
        // clang-format off
        if (count == 11) { dots_block<T, 11>(out, a, a_step, b, b_step, dim); done = 11; }
        else if (count == 9) { dots_block<T, 9>(out, a, a_step, b, b_step, dim); done = 9; }
        else if (count >= 7) { dots_block<T, 7>(out, a, a_step, b, b_step, dim); done = 7; }
        else if (count >= 5) { dots_block<T, 5>(out, a, a_step, b, b_step, dim); done = 5; }
        else if (count >= 3) { dots_block<T, 3>(out, a, a_step, b, b_step, dim); done = 3; }
        else { dots_block<T, 1>(out, a, a_step, b, b_step, dim); done = 1; }
        // clang-format on
        out += done * LANES<T>;
        b += done;
        count -= done;
    }
}

// out[d] += sum over j of w[j] * b[d] shifted by j, for N channels at once.
template <class T, int N>
static void accumulate_block(T* out, int64_t out_step, const T* w, int64_t w_step, const T* b, int64_t shift,
                             int64_t b_step, int64_t count) {
    Vec<T> sums[N];
    for (int d = 0; d < N; ++d) sums[d] = load(out + d * out_step);
    for (int64_t j = 0; j < count; ++j) {
        const Vec<T> one = load(w + j * w_step);
        const T* other = b + j * shift;
#pragma GCC unroll 16
        for (int d = 0; d < N; ++d) sums[d] += one * load(other + d * b_step);
    }
    for (int d = 0; d < N; ++d) store(out + d * out_step, sums[d]);
}

template <class T>
static void accumulate(T* out, int64_t out_step, const T* w, int64_t w_step, const T* b, int64_t shift, int64_t b_step,
                       int64_t dim, int64_t count) {
    int64_t d = 0;
    for (; d + 8 <= dim; d += 8)
        accumulate_block<T, 8>(out + d * out_step, out_step, w, w_step, b + d * b_step, shift, b_step, count);
    for (; d + 2 <= dim; d += 2)
        accumulate_block<T, 2>(out + d * out_step, out_step, w, w_step, b + d * b_step, shift, b_step, count);
    for (; d < dim; ++d)
        accumulate_block<T, 1>(out + d * out_step, out_step, w, w_step, b + d * b_step, shift, b_step, count);
}

template <class T>
static void copy_rows(const T* from, int64_t from_step, T* to, int64_t to_step, int64_t rows, int64_t width) {
    for (int64_t i = 0; i < rows; ++i) std::memcpy(to + i * to_step, from + i * from_step, width * sizeof(T));
}
