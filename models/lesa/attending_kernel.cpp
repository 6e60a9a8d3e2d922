// LESA's attention with positions on the flattened map, on a CPU: forward and backward over one image and head at a time.
//
// A plain C interface (no torch headers), so that it compiles in a second or two. The formulas are those of
// models/lesa/attending.py: query i meets key j at entry i + j of the tables, as keys and values come in reverse order.
// The matrices of one image and head stay in the cache; what is summed over all of them, the gradients of the tables, is
// summed in parts of a fixed number of images and heads, so that results do not depend on the number of threads.
//
// N positions, d channels of a query, c channels of a value, T = 2 N - 1 entries of a table.

#include "vectors.h"

constexpr int64_t EDGE = 8;  // zeros around a matrix of weights, which rows that are computed together read
constexpr int64_t ROWS = 4;  // rows that are computed together

template <class T>
static int64_t whole(int64_t count) {
    return (count + LANES<T> - 1) / LANES<T> * LANES<T>;
}

template <class T>
struct Problem {
    int64_t maps, count, dim, channels, parts;
    const T *q, *k, *v, *q_at, *k_at, *q_table, *k_table, *v_table, *weights, *grad, *grad_at;

    Problem(const int64_t* sizes, const void* const* given, bool backward)
        : maps(sizes[0]), count(sizes[1]), dim(sizes[2]), channels(sizes[3]), parts(sizes[4]), q((const T*)given[0]),
          k((const T*)given[1]), v((const T*)given[2]), q_at((const T*)given[3]), k_at((const T*)given[4]),
          q_table((const T*)given[5]), k_table((const T*)given[6]), v_table((const T*)given[7]),
          weights(backward ? (const T*)given[8] : nullptr), grad(backward ? (const T*)given[9] : nullptr),
          grad_at(backward ? (const T*)given[10] : nullptr) {}

    int64_t wide() const { return whole<T>(count); }
    int64_t entries() const { return 2 * count - 1; }
    int64_t first(int64_t part) const { return part * maps / parts; }
};

// Rows of channels, with zeros up to a whole number of vectors, and with more rows of zeros where they are asked for.
template <class T>
struct RowsOf {
    int64_t width;
    std::vector<T> data;
    RowsOf(int64_t rows, int64_t chs) : width(whole<T>(chs)), data(rows * width) {}
    void read(const T* from, int64_t rows, int64_t chs) {
        if (chs == width) return (void)std::memcpy(data.data(), from, rows * chs * sizeof(T));
        for (int64_t i = 0; i < rows; ++i) std::memcpy(&data[i * width], from + i * chs, chs * sizeof(T));
    }
    void write(T* to, int64_t rows, int64_t chs) const {
        if (chs == width) return (void)std::memcpy(to, data.data(), rows * chs * sizeof(T));
        for (int64_t i = 0; i < rows; ++i) std::memcpy(to + i * chs, &data[i * width], chs * sizeof(T));
    }
};

// Channels one after another, each a row of `length` numbers, zeros behind those that are read.
template <class T>
struct Turned {
    int64_t length;
    std::vector<T> data;
    Turned(int64_t chs, int64_t at_least) : length(whole<T>(at_least) + EDGE), data(chs * length) {}
    void read(const RowsOf<T>& rows, int64_t count, int64_t chs) {
        for (int64_t i = 0; i < count; ++i)
            for (int64_t d = 0; d < chs; ++d) data[d * length + i] = rows.data[i * rows.width + d];
    }
};

// A table (chs, T) as channels of entries, and as rows of channels.
template <class T>
struct Table {
    Turned<T> by_channel;
    RowsOf<T> by_entry;
    Table(const T* from, int64_t chs, int64_t count)
        : by_channel(chs, 2 * whole<T>(count) + ROWS), by_entry(2 * count + 2 * ROWS, chs) {
        const int64_t entries = 2 * count - 1;
        for (int64_t d = 0; d < chs; ++d)
            for (int64_t t = 0; t < entries; ++t)
                by_channel.data[d * by_channel.length + t] = by_entry.data[t * by_entry.width + d] =
                    from[d * entries + t];
    }
};

// Matrix of queries times keys with zeros around.
template <class T>
struct Square {
    int64_t step;
    std::vector<T> data;
    explicit Square(int64_t count)
        : step(whole<T>(count) + 2 * EDGE), data((count + 2 * EDGE) * (whole<T>(count) + 2 * EDGE)) {}
    T* at(int64_t i) { return &data[(i + EDGE) * step + EDGE]; }
};

// What is multiplied with keys or values, and with the entries of a table, to make a row of a matrix.
template <class T>
struct Factors {
    const RowsOf<T>*plain, *placed;
    const Turned<T>*others, *table;
    const Turned<T>*more_others = nullptr, *more_table = nullptr;
    int64_t chs;
};

template <class T, int R, int J>
static void products_block(T* out, int64_t step, const Factors<T>& f, int64_t i, int64_t j) {
    Vec<T> sums[R][J];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < J; ++n) sums[r][n] = fill<T>(0);
    const T *plain = &f.plain->data[i * f.plain->width], *placed = &f.placed->data[i * f.placed->width];
    for (int64_t d = 0; d < f.chs; ++d) {
        const T *other = &f.others->data[d * f.others->length + j], *entry = &f.table->data[d * f.table->length + i + j];
#pragma GCC unroll 8
        for (int n = 0; n < J; ++n) {
            const Vec<T> y = load(other + n * LANES<T>);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                sums[r][n] += y * plain[r * f.plain->width + d];
                sums[r][n] += load(entry + r + n * LANES<T>) * placed[r * f.placed->width + d];
            }
        }
    }
    if (f.more_table)
        for (int64_t d = 0; d < f.chs; ++d) {
            const T* other = &f.more_others->data[d * f.more_others->length + j];
            const T* entry = &f.more_table->data[d * f.more_table->length + i + j];
#pragma GCC unroll 8
            for (int n = 0; n < J; ++n) {
                const Vec<T> y = load(other + n * LANES<T>);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) sums[r][n] += y * load(entry + r + n * LANES<T>);
            }
        }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < J; ++n) store(out + r * step + n * LANES<T>, sums[r][n]);
}

// out(i, j) = plain(i) others(j) + placed(i) table(i + j) + more_others(j) more_table(i + j)
template <class T>
static void products(Square<T>& out, const Factors<T>& f, int64_t count) {
    const int64_t wide = whole<T>(count);
    for (int64_t i = 0; i < count;) {
        const bool many = i + ROWS <= count;
        int64_t j = 0;
        for (; j + 4 * LANES<T> <= wide; j += 4 * LANES<T>)
            many ? products_block<T, ROWS, 4>(out.at(i) + j, out.step, f, i, j)
                 : products_block<T, 1, 4>(out.at(i) + j, out.step, f, i, j);
        for (; j < wide; j += LANES<T>)
            many ? products_block<T, ROWS, 1>(out.at(i) + j, out.step, f, i, j)
                 : products_block<T, 1, 1>(out.at(i) + j, out.step, f, i, j);
        i += many ? ROWS : 1;
    }
}

template <class T, int R, int C>
static void mixed_block(T* out, int64_t out_step, const T* w, int64_t row_step, int64_t step, const T* y, int64_t width,
                        int64_t from, int64_t to, bool adds) {
    Vec<T> sums[R][C];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < C; ++n) sums[r][n] = adds ? load(out + r * out_step + n * LANES<T>) : fill<T>(0);
    for (int64_t x = from; x < to; ++x) {
        const T *rows = y + x * width, *factors = w + x * step;
#pragma GCC unroll 8
        for (int n = 0; n < C; ++n) {
            const Vec<T> one = load(rows + n * LANES<T>);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sums[r][n] += one * factors[r * row_step];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < C; ++n) store(out + r * out_step + n * LANES<T>, sums[r][n]);
}

template <class T, int R>
static void mixed_rows(RowsOf<T>& out, int64_t row, const T* w, int64_t row_step, int64_t step, const RowsOf<T>& y,
                       int64_t from, int64_t to, bool adds) {
    T* at = &out.data[row * out.width];
    int64_t n = 0;
    for (; n + 4 * LANES<T> <= out.width; n += 4 * LANES<T>)
        mixed_block<T, R, 4>(at + n, out.width, w, row_step, step, &y.data[n], y.width, from, to, adds);
    for (; n + 2 * LANES<T> <= out.width; n += 2 * LANES<T>)
        mixed_block<T, R, 2>(at + n, out.width, w, row_step, step, &y.data[n], y.width, from, to, adds);
    for (; n < out.width; n += LANES<T>)
        mixed_block<T, R, 1>(at + n, out.width, w, row_step, step, &y.data[n], y.width, from, to, adds);
}

// out(r) = sum over x of w[r row_step + x step] y(x), for the x that `range` gives for rows r to r + R - 1.
template <class T, class Range>
static void mixed(RowsOf<T>& out, int64_t rows, const T* w, int64_t row_step, int64_t step, const RowsOf<T>& y,
                  const Range& range, bool adds = false) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) {
        const auto [from, to] = range(r, ROWS);
        mixed_rows<T, ROWS>(out, r, w + r * row_step, row_step, step, y, from, to, adds);
    }
    for (; r < rows; ++r) {
        const auto [from, to] = range(r, int64_t(1));
        mixed_rows<T, 1>(out, r, w + r * row_step, row_step, step, y, from, to, adds);
    }
}

struct Span {
    int64_t from, to;
};

// out(r) = sum over the keys, or with turned steps over the queries.
template <class T>
static void summed(RowsOf<T>& out, const T* w, int64_t row_step, int64_t step, const RowsOf<T>& y, int64_t count) {
    mixed(out, count, w, row_step, step, y, [=](int64_t, int64_t) { return Span{0, count}; });
}

// out(r) = sum over the entries t of a table of w(r, t - r) table(t)
template <class T>
static void summed_entries(RowsOf<T>& out, const T* w, int64_t row_step, int64_t step, const Table<T>& table,
                           int64_t count) {
    mixed(out, count, w, row_step - step, step, table.by_entry,
          [=](int64_t r, int64_t rows) { return Span{r, r + rows - 1 + count}; });
}

// out(t) += sum over r of w(r, t - r) y(r)
template <class T>
static void add_to_entries(RowsOf<T>& out, const T* w, int64_t row_step, int64_t step, const RowsOf<T>& y,
                           int64_t count) {
    const auto range = [=](int64_t t, int64_t rows) {
        return Span{std::max<int64_t>(0, t - count + 1), std::min(count, t + rows)};
    };
    mixed(out, 2 * count - 1, w, step, row_step - step, y, range, true);
}

// Softmax over each row; zeros behind the last key.
template <class T>
static void softmax(Square<T>& logits, int64_t count) {
    const int64_t wide = whole<T>(count);
    for (int64_t i = 0; i < count; ++i) {
        T* row = logits.at(i);
        for (int64_t j = count; j < wide; ++j) row[j] = -std::numeric_limits<T>::infinity();
        Vec<T> tops = load(row);
        for (int64_t j = LANES<T>; j < wide; j += LANES<T>) {
            const Vec<T> x = load(row + j);
            tops = tops > x ? tops : x;
        }
        T top = tops[0], total = 0;
        for (int64_t n = 1; n < LANES<T>; ++n) top = std::max(top, T(tops[n]));
        Vec<T> sums = fill<T>(0);
        for (int64_t j = 0; j < wide; j += LANES<T>) {
            const Vec<T> e = exponential<T>(load(row + j) - top);
            sums += e;
            store(row + j, e);
        }
        for (int64_t n = 0; n < LANES<T>; ++n) total += sums[n];
        const T scale = T(1) / total;
        for (int64_t j = 0; j < wide; j += LANES<T>) store(row + j, load(row + j) * scale);
    }
}

// Gradient of the logits from that of the weights, in place: w (g - <w, g>).
template <class T>
static void softmax_backward(Square<T>& grad, Square<T>& weights, int64_t count) {
    const int64_t wide = whole<T>(count);
    for (int64_t i = 0; i < count; ++i) {
        T *g = grad.at(i), *w = weights.at(i), inner = 0;
        Vec<T> sums = fill<T>(0);
        for (int64_t j = 0; j < wide; j += LANES<T>) sums += load(g + j) * load(w + j);
        for (int64_t n = 0; n < LANES<T>; ++n) inner += sums[n];
        for (int64_t j = 0; j < wide; j += LANES<T>) store(g + j, load(w + j) * (load(g + j) - inner));
    }
}

template <class T>
static void forward(const int64_t* sizes, const void* const* given, void* const* results, int64_t threads) {
    const Problem<T> p(sizes, given, false);
    const int64_t N = p.count, d = p.dim, c = p.channels;
    in_parallel(p.parts, threads, [&](int64_t part) {
        const Table<T> of_q(p.q_table, d, N), of_k(p.k_table, d, N), of_v(p.v_table, c, N);
        RowsOf<T> q(N, d), k(N, d), v(N, c), q_at(N, d), k_at(N, d), out(N, c);
        Turned<T> keys(d, p.wide()), placed_keys(d, p.wide());
        Square<T> weights(N);
        for (int64_t m = p.first(part); m < p.first(part + 1); ++m) {
            const int64_t narrow = m * N * d, full = m * N * c;
            q.read(p.q + narrow, N, d);
            k.read(p.k + narrow, N, d);
            v.read(p.v + full, N, c);
            q_at.read(p.q_at + narrow, N, d);
            k_at.read(p.k_at + narrow, N, d);
            keys.read(k, N, d);
            placed_keys.read(k_at, N, d);
            products(weights, {&q, &q_at, &keys, &of_q.by_channel, &placed_keys, &of_k.by_channel, d}, N);
            softmax(weights, N);
            summed(out, weights.at(0), weights.step, 1, v, N);
            out.write((T*)results[0] + full, N, c);
            summed_entries(out, weights.at(0), weights.step, 1, of_v, N);
            out.write((T*)results[1] + full, N, c);
            if (results[2])
                for (int64_t i = 0; i < N; ++i)
                    std::memcpy((T*)results[2] + (m * N + i) * N, weights.at(i), N * sizeof(T));
        }
    });
}

template <class T>
static void backward(const int64_t* sizes, const void* const* given, void* const* results, int64_t threads) {
    const Problem<T> p(sizes, given, true);
    const int64_t N = p.count, d = p.dim, c = p.channels;
    in_parallel(p.parts, threads, [&](int64_t part) {
        const Table<T> of_q(p.q_table, d, N), of_k(p.k_table, d, N), of_v(p.v_table, c, N);
        RowsOf<T> q(N, d), k(N, d), v(N, c), q_at(N, d), k_at(N, d), grad(N, c), grad_at(N, c), narrow(N, d), full(N, c);
        RowsOf<T> by_q(2 * N, d), by_k(2 * N, d), by_v(2 * N, c);
        Turned<T> values(c, p.wide());
        Square<T> weights(N), slopes(N);
        for (int64_t m = p.first(part); m < p.first(part + 1); ++m) {
            const int64_t start = m * N * d;
            q.read(p.q + start, N, d);
            k.read(p.k + start, N, d);
            v.read(p.v + m * N * c, N, c);
            q_at.read(p.q_at + start, N, d);
            k_at.read(p.k_at + start, N, d);
            grad.read(p.grad + m * N * c, N, c);
            grad_at.read(p.grad_at + m * N * c, N, c);
            values.read(v, N, c);
            for (int64_t i = 0; i < N; ++i)
                std::memcpy(weights.at(i), p.weights + (m * N + i) * N, N * sizeof(T));
            T *w = weights.at(0), *s = slopes.at(0);
            const int64_t step = weights.step;
            summed(full, w, 1, step, grad, N);
            full.write((T*)results[2] + m * N * c, N, c);
            add_to_entries(by_v, w, step, 1, grad_at, N);
            products(slopes, {&grad, &grad_at, &values, &of_v.by_channel, nullptr, nullptr, c}, N);
            softmax_backward(slopes, weights, N);
            summed(narrow, s, step, 1, k, N);
            narrow.write((T*)results[0] + start, N, d);
            summed(narrow, s, 1, step, q, N);
            narrow.write((T*)results[1] + start, N, d);
            summed_entries(narrow, s, step, 1, of_q, N);
            narrow.write((T*)results[3] + start, N, d);
            summed_entries(narrow, s, 1, step, of_k, N);
            narrow.write((T*)results[4] + start, N, d);
            add_to_entries(by_q, s, step, 1, q_at, N);
            add_to_entries(by_k, s, 1, step, k_at, N);
        }
        by_q.write((T*)results[5] + part * p.entries() * d, p.entries(), d);
        by_k.write((T*)results[6] + part * p.entries() * d, p.entries(), d);
        by_v.write((T*)results[7] + part * p.entries() * c, p.entries(), c);
    });
}

extern "C" {
int spatialsweep_lesa_forward_f32(const int64_t* s, const void* const* g, void* const* r, int64_t n) {
    return guarded([&] { forward<float>(s, g, r, n); });
}
int spatialsweep_lesa_forward_f64(const int64_t* s, const void* const* g, void* const* r, int64_t n) {
    return guarded([&] { forward<double>(s, g, r, n); });
}
int spatialsweep_lesa_backward_f32(const int64_t* s, const void* const* g, void* const* r, int64_t n) {
    return guarded([&] { backward<float>(s, g, r, n); });
}
int spatialsweep_lesa_backward_f64(const int64_t* s, const void* const* g, void* const* r, int64_t n) {
    return guarded([&] { backward<double>(s, g, r, n); });
}
// Runs all four on one image and head of five positions and one channel.
int spatialsweep_probe() {
    const auto pass = [](auto zero) {
        using T = decltype(zero);
        T row[5] = {}, table[9] = {}, weights[25] = {}, rows[5][5], tables[3][9];
        const int64_t sizes[] = {1, 5, 1, 1, 1};
        const void* given[] = {row, row, row, row, row, table, table, table, weights, row, row};
        void* results[] = {rows[0], rows[1], weights};
        void* gradients[] = {rows[0], rows[1], rows[2], rows[3], rows[4], tables[0], tables[1], tables[2]};
        forward<T>(sizes, given, results, 1);
        backward<T>(sizes, given, gradients, 1);
    };
    return guarded([&] {
        pass(0.0f);
        pass(0.0);
    });
}
}
