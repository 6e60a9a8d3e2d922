// Batch norm in training mode with what follows it in a residual network: an addition, a ReLU, or both.
//
// y = relu((x - mean) / sqrt(variance + eps) * weight + bias + other), relu and other being optional. A map is read once
// for its statistics and once for its values; the gradient of the ReLU is found again from x or y instead of being
// stored. Sums are taken over blocks of fixed size in the type of the map, and over the blocks in double precision, so
// that no result depends on the number of threads.
//
// Two orders of maps: channels first (images, C, area), one channel per task; channels last (rows, C), by chunks of rows.

#include "vectors.h"

constexpr int64_t BLOCK = 8192;  // elements that are summed in the type of the map
constexpr int64_t CHUNKS = 64;   // of the rows of a map with channels last

// Numbers of a channel, as the loops over its elements need them.
template <class T>
struct Line {
    T scale, shift, mean, by_grad, by_value, constant;
};

template <class T>
struct Norm {
    bool last, relu;
    int64_t images, chs, area, threads;
    const T *x, *weight, *bias, *other;

    Norm(const int64_t* sizes, const void* const* maps, int64_t threads_)
        : last(sizes[0]), relu(sizes[1]), images(sizes[2]), chs(sizes[3]), area(sizes[4]), threads(threads_),
          x((const T*)maps[0]), weight((const T*)maps[1]), bias((const T*)maps[2]), other((const T*)maps[3]) {
        if (images * chs * area < 4 * BLOCK) threads = 1;
    }
    int64_t rows() const { return images * area; }
    int64_t chunks() const { return std::min(CHUNKS, (rows() + block_rows() - 1) / block_rows()); }
    int64_t first_row(int64_t chunk) const { return chunk * rows() / chunks(); }
    int64_t block_rows() const { return std::max<int64_t>(16, BLOCK / chs); }
};

// Sums of vectors in the type of the map, emptied into doubles before they hold more than BLOCK elements.
template <class T>
struct Sums {
    static constexpr int64_t V = LANES<T>;
    Vec<T> parts[4] = {fill<T>(0), fill<T>(0), fill<T>(0), fill<T>(0)};
    int64_t held = 0;
    double total = 0;

    void empty() {
        const Vec<T> sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
        for (int64_t j = 0; j < V; ++j) total += sum[j];
        for (Vec<T>& part : parts) part = fill<T>(0);
        held = 0;
    }
    // Adds term(i), a vector of the elements from i on, and one(i), an element, over a plane.
    template <class Term, class One>
    void add(int64_t count, const Term& term, const One& one) {
        for (int64_t from = 0; from < count; from += BLOCK) {
            const int64_t to = std::min(count, from + BLOCK);
            if (held + to - from > BLOCK) empty();
            held += to - from;
            int64_t i = from;
            for (; i + 4 * V <= to; i += 4 * V)
                for (int j = 0; j < 4; ++j) parts[j] += term(i + j * V);
            for (; i + V <= to; i += V) parts[0] += term(i);
            for (; i < to; ++i) total += one(i);
        }
    }
};

template <class T>
static void finish_statistics(const Norm<T>& n, int64_t c, double mean, double variance, const double* numbers,
                              void* const* results) {
    ((T*)results[1])[c] = T(mean);
    ((T*)results[2])[c] = T(1 / std::sqrt(variance + numbers[0]));
    T *running_mean = (T*)results[3], *running_variance = (T*)results[4];
    if (!running_mean) return;
    const double count = double(n.rows()), momentum = numbers[1];
    running_mean[c] = T((1 - momentum) * running_mean[c] + momentum * mean);
    running_variance[c] = T((1 - momentum) * running_variance[c] + momentum * variance * (count / (count - 1)));
}

// One element: the output, of what may be a vector or a number.
template <class T, class X>
static inline X output_of(const X& x, T scale, T shift) {
    return x * scale + shift;
}

template <class T>
static void write_plane(const Norm<T>& n, const T* x, const T* other, T* y, T scale, T shift) {
    const T lowest = n.relu ? T(0) : -std::numeric_limits<T>::infinity();
    if (other)
        for (int64_t i = 0; i < n.area; ++i) {
            const T value = output_of(x[i], scale, shift) + other[i];
            y[i] = value < lowest ? lowest : value;
        }
    else
        for (int64_t i = 0; i < n.area; ++i) {
            const T value = output_of(x[i], scale, shift);
            y[i] = value < lowest ? lowest : value;
        }
}

template <class T>
static void forward_first(const Norm<T>& n, const double* numbers, void* const* results) {
    in_parallel(n.chs, n.threads, [&](int64_t c) {
        Sums<T> sums, squares;
        for (int64_t image = 0; image < n.images; ++image) {
            const T* x = n.x + (image * n.chs + c) * n.area;
            sums.add(n.area, [&](int64_t i) { return load(x + i); }, [&](int64_t i) { return x[i]; });
        }
        sums.empty();
        const double count = double(n.rows()), mean = sums.total / count;
        const T middle = T(mean);
        for (int64_t image = 0; image < n.images; ++image) {
            const T* x = n.x + (image * n.chs + c) * n.area;
            const auto square = [&](const auto& value) { return (value - middle) * (value - middle); };
            squares.add(n.area, [&](int64_t i) { return square(load(x + i)); }, [&](int64_t i) { return square(x[i]); });
        }
        squares.empty();
        const double off = mean - middle, variance = std::max(0.0, squares.total / count - off * off);
        finish_statistics(n, c, mean, variance, numbers, results);
        const T scale = n.weight[c] * ((T*)results[2])[c], shift = n.bias[c] - middle * scale;
        for (int64_t image = 0; image < n.images; ++image) {
            const int64_t at = (image * n.chs + c) * n.area;
            write_plane(n, n.x + at, n.other ? n.other + at : nullptr, (T*)results[0] + at, scale, shift);
        }
    });
}

// Sums and squares about the first row, of the rows of a chunk: 2 C numbers.
template <class T>
static void chunk_statistics(const Norm<T>& n, int64_t chunk, double* totals) {
    const int64_t C = n.chs, last = n.first_row(chunk + 1);
    std::vector<T> memory(2 * C);
    T *__restrict sums = memory.data(), *__restrict squares = sums + C;
    for (int64_t from = n.first_row(chunk); from < last; from += n.block_rows()) {
        const int64_t to = std::min(last, from + n.block_rows());
        std::fill(memory.begin(), memory.end(), T(0));
        for (int64_t row = from; row < to; ++row) {
            const T* __restrict x = n.x + row * C;
            for (int64_t c = 0; c < C; ++c) sums[c] += x[c];
        }
        const T part = T(1) / T(to - from);
        for (int64_t c = 0; c < C; ++c) sums[c] *= part;
        for (int64_t row = from; row < to; ++row) {
            const T* __restrict x = n.x + row * C;
            for (int64_t c = 0; c < C; ++c) squares[c] += (x[c] - sums[c]) * (x[c] - sums[c]);
        }
        for (int64_t c = 0; c < C; ++c) {
            const double off = double(sums[c]) - double(n.x[c]), count = double(to - from);
            totals[c] += count * off;
            totals[C + c] += double(squares[c]) + count * off * off;
        }
    }
}

template <class T>
static void forward_last(const Norm<T>& n, const double* numbers, void* const* results) {
    const int64_t C = n.chs, chunks = n.chunks();
    std::vector<double> totals(chunks * 2 * C);
    in_parallel(chunks, n.threads, [&](int64_t chunk) { chunk_statistics(n, chunk, &totals[chunk * 2 * C]); });
    std::vector<T> scales(C), shifts(C);
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t c = 0; c < 2 * C; ++c) totals[c] += totals[chunk * 2 * C + c];
    for (int64_t c = 0; c < C; ++c) {
        const double count = double(n.rows()), off = totals[c] / count, mean = off + n.x[c];
        finish_statistics(n, c, mean, std::max(0.0, totals[C + c] / count - off * off), numbers, results);
        scales[c] = n.weight[c] * ((T*)results[2])[c];
        shifts[c] = n.bias[c] - T(mean) * scales[c];
    }
    const T lowest = n.relu ? T(0) : -std::numeric_limits<T>::infinity();
    in_parallel(chunks, n.threads, [&](int64_t chunk) {
        const T *__restrict scale = scales.data(), *__restrict shift = shifts.data();
        for (int64_t row = n.first_row(chunk); row < n.first_row(chunk + 1); ++row) {
            const T* __restrict x = n.x + row * C;
            T* __restrict y = (T*)results[0] + row * C;
            if (n.other) {
                const T* __restrict other = n.other + row * C;
                for (int64_t c = 0; c < C; ++c) {
                    const T value = output_of(x[c], scale[c], shift[c]) + other[c];
                    y[c] = value < lowest ? lowest : value;
                }
            } else {
                for (int64_t c = 0; c < C; ++c) {
                    const T value = output_of(x[c], scale[c], shift[c]);
                    y[c] = value < lowest ? lowest : value;
                }
            }
        }
    });
}

#include "norm_kernel_backward.h"

// maps: x, weight, bias, other, numbers (eps, momentum); results: y, mean, 1 / deviation, running mean and variance.
template <class T>
static void forward(const int64_t* sizes, const void* const* maps, void* const* results, int64_t threads) {
    const Norm<T> n(sizes, maps, threads);
    (n.last ? forward_last<T> : forward_first<T>)(n, (const double*)maps[4], results);
}

// maps: x, weight, bias, None, y, grad of y, mean, 1 / deviation; results: gradients of x, weight, bias and other.
template <class T>
static void backward(const int64_t* sizes, const void* const* maps, void* const* results, int64_t threads) {
    const Backward<T> b(Norm<T>(sizes, maps, threads), maps, results);
    if (b.n.last)
        b.run_last();
    else
        b.run_first();
}

extern "C" {
int spatialsweep_norm_forward_f32(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { forward<float>(s, m, r, n); });
}
int spatialsweep_norm_forward_f64(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { forward<double>(s, m, r, n); });
}
int spatialsweep_norm_backward_f32(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { backward<float>(s, m, r, n); });
}
int spatialsweep_norm_backward_f64(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { backward<double>(s, m, r, n); });
}
// Runs all four on both orders of a map of two images with nine channels of nine pixels.
int spatialsweep_probe() {
    const auto pass = [](auto zero, int64_t last) {
        using T = decltype(zero);
        std::vector<T> x(162, T(1)), y(162), grads(324), chs(9, T(1)), found(36);
        const double numbers[] = {1e-5, 0.1};
        const int64_t sizes[] = {last, 1, 2, 9, 9};
        const void* maps[] = {x.data(), chs.data(), chs.data(), x.data(), numbers};
        void* results[] = {y.data(), &found[0], &found[9], nullptr, nullptr};
        forward<T>(sizes, maps, results, 1);
        const void* kept[] = {x.data(), chs.data(), chs.data(), nullptr, y.data(), x.data(), &found[0], &found[9]};
        void* gradients[] = {&grads[0], &found[18], &found[27], &grads[162]};
        backward<T>(sizes, kept, gradients, 1);
    };
    return guarded([&] {
        for (int64_t last = 0; last < 2; ++last) {
            pass(0.0f, last);
            pass(0.0, last);
        }
    });
}
}
