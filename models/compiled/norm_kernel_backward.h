// The backward pass of the batch norm: the sums of its channels, then the gradient of the map.

#pragma once

template <class T>
struct Backward {
    const Norm<T> n;
    const T *y, *grad, *mean, *inverse;  // y only where something was added ahead of the ReLU
    T *to_x, *to_weight, *to_bias, *to_other;

    Backward(const Norm<T>& norm, const void* const* maps, void* const* results)
        : n(norm), y((const T*)maps[4]), grad((const T*)maps[5]), mean((const T*)maps[6]), inverse((const T*)maps[7]),
          to_x((T*)results[0]), to_weight((T*)results[1]), to_bias((T*)results[2]), to_other((T*)results[3]) {}

    // The factors of a channel whose gradient sums to `sum`, and to `along` with its centred values.
    Line<T> line(int64_t c, double sum, double along) const {
        const double count = double(n.rows()), width = inverse[c];
        to_weight[c] = T(along * width);
        to_bias[c] = T(sum);
        const double scale = n.weight[c] * width;
        return {T(0), T(0), mean[c], T(scale), T(-scale * width * width * along / count), T(-scale * sum / count)};
    }
    Line<T> values(int64_t c) const {
        const T scale = n.weight[c] * inverse[c];
        return {scale, n.bias[c] - mean[c] * scale, mean[c], T(0), T(0), T(0)};
    }

    // Gradient ahead of the ReLU, of an element or a vector.
    template <class X>
    X ahead(const X& g, const X& x, const X& out, const X& zero, T scale, T shift) const {
        if (!n.relu) return g;
        return y ? (out > zero ? g : zero) : (output_of(x, scale, shift) > zero ? g : zero);
    }

    void run_first() const {
        in_parallel(n.chs, n.threads, [&](int64_t c) {
            const Line<T> found = values(c);
            Sums<T> sum, along;
            for (int64_t image = 0; image < n.images; ++image) sum_plane(c, image, found, sum, along);
            sum.empty();
            along.empty();
            const Line<T> by = line(c, sum.total, along.total);
            for (int64_t image = 0; image < n.images; ++image) {
                const int64_t at = (image * n.chs + c) * n.area;
                const T *__restrict x = n.x + at, *__restrict g = to_other ? to_other + at : grad + at;
                T* __restrict to = to_x + at;
                const bool masked = n.relu && !to_other;
                const T* out = y ? y + at : x;
                for (int64_t i = 0; i < n.area; ++i) {
                    const T one = masked ? ahead(g[i], x[i], out[i], T(0), found.scale, found.shift) : g[i];
                    to[i] = one * by.by_grad + (x[i] - by.mean) * by.by_value + by.constant;
                }
            }
        });
    }

    // Adds the sums of a plane; writes the gradient of what was added.
    void sum_plane(int64_t c, int64_t image, const Line<T>& found, Sums<T>& sum, Sums<T>& along) const {
        const int64_t at = (image * n.chs + c) * n.area;
        const T *x = n.x + at, *g = grad + at, *out = y ? y + at : x;
        T* kept = to_other ? to_other + at : nullptr;
        constexpr int64_t V = LANES<T>;
        for (int64_t from = 0; from < n.area; from += BLOCK) {
            const int64_t to = std::min(n.area, from + BLOCK);
            if (sum.held + to - from > BLOCK) {
                sum.empty();
                along.empty();
            }
            sum.held += to - from;
            int64_t i = from;
            const auto step = [&](int j) {
                const Vec<T> value = load(x + i);
                const Vec<T> one = ahead(load(g + i), value, load(out + i), fill<T>(0), found.scale, found.shift);
                sum.parts[j] += one;
                along.parts[j] += one * (value - found.mean);
                if (kept) store(kept + i, one);
                i += V;
            };
            while (i + 2 * V <= to) {
                step(0);
                step(1);
            }
            if (i + V <= to) step(0);
            for (; i < to; ++i) {
                const T one = ahead(g[i], x[i], out[i], T(0), found.scale, found.shift);
                sum.total += one;
                along.total += one * (x[i] - found.mean);
                if (kept) kept[i] = one;
            }
        }
    }

    void run_last() const {
        const int64_t C = n.chs, chunks = n.chunks();
        std::vector<T> lines(5 * C);
        T *scale = &lines[0], *shift = &lines[C], *by_grad = &lines[2 * C], *by_value = &lines[3 * C];
        T* constant = &lines[4 * C];
        for (int64_t c = 0; c < C; ++c) {
            const Line<T> found = values(c);
            scale[c] = found.scale;
            shift[c] = found.shift;
        }
        std::vector<double> totals(chunks * 2 * C);
        in_parallel(chunks, n.threads, [&](int64_t chunk) { sum_chunk(chunk, scale, shift, &totals[chunk * 2 * C]); });
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
            for (int64_t c = 0; c < 2 * C; ++c) totals[c] += totals[chunk * 2 * C + c];
        for (int64_t c = 0; c < C; ++c) {
            const Line<T> by = line(c, totals[c], totals[C + c]);
            by_grad[c] = by.by_grad;
            by_value[c] = by.by_value;
            constant[c] = by.constant;
        }
        in_parallel(chunks, n.threads, [&](int64_t chunk) { write_chunk(chunk, scale, shift, by_grad, by_value, constant); });
    }

    void sum_chunk(int64_t chunk, const T* __restrict scale, const T* __restrict shift, double* totals) const {
        const int64_t C = n.chs, last = n.first_row(chunk + 1);
        std::vector<T> memory(2 * C);
        T *__restrict sums = memory.data(), *__restrict products = sums + C;
        const T* __restrict middle = mean;
        for (int64_t from = n.first_row(chunk); from < last; from += n.block_rows()) {
            std::fill(memory.begin(), memory.end(), T(0));
            for (int64_t row = from; row < std::min(last, from + n.block_rows()); ++row) {
                const int64_t at = row * C;
                const T *__restrict x = n.x + at, *__restrict g = grad + at;
                const auto add = [&](int64_t c, T one) {
                    sums[c] += one;
                    products[c] += one * (x[c] - middle[c]);
                };
                if (!n.relu) {
                    for (int64_t c = 0; c < C; ++c) add(c, g[c]);
                } else if (y) {
                    const T* __restrict out = y + at;
                    for (int64_t c = 0; c < C; ++c) add(c, out[c] > T(0) ? g[c] : T(0));
                } else {
                    for (int64_t c = 0; c < C; ++c) add(c, output_of(x[c], scale[c], shift[c]) > T(0) ? g[c] : T(0));
                }
                if (!to_other) continue;
                const T* __restrict out = y ? y + at : x;
                T* __restrict to = to_other + at;
                for (int64_t c = 0; c < C; ++c) to[c] = !n.relu || out[c] > T(0) ? g[c] : T(0);
            }
            for (int64_t c = 0; c < 2 * C; ++c) totals[c] += memory[c];
        }
    }

    void write_chunk(int64_t chunk, const T* __restrict scale, const T* __restrict shift, const T* __restrict by_grad,
                     const T* __restrict by_value, const T* __restrict constant) const {
        const int64_t C = n.chs;
        const T* __restrict middle = mean;
        const bool masked = n.relu && !to_other;
        for (int64_t row = n.first_row(chunk); row < n.first_row(chunk + 1); ++row) {
            const int64_t at = row * C;
            const T *__restrict x = n.x + at, *__restrict g = to_other ? to_other + at : grad + at;
            T* __restrict to = to_x + at;
            const auto write = [&](int64_t c, T one) {
                to[c] = one * by_grad[c] + (x[c] - middle[c]) * by_value[c] + constant[c];
            };
            if (masked)
                for (int64_t c = 0; c < C; ++c) write(c, output_of(x[c], scale[c], shift[c]) > T(0) ? g[c] : T(0));
            else
                for (int64_t c = 0; c < C; ++c) write(c, g[c]);
        }
    }
};
