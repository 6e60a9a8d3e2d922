// Local attention on a CPU: forward and backward over one image and head at a time, eight pixels of a row per step.
//
// A plain C interface (no torch headers), so that it compiles in a second or two. The formulas are those of
// models/local_attention/tiled.py; the backward pass computes the attention weights again from three numbers per query.
// Rows of keys and values are copied with zeros to the left and right; rows beyond the border are never stored.
//
// L radius, K = 2 L + 1 side of the window; a query at column x meets, at offset dx in 0..K-1, padded column x + dx.

#include "attention_kernel.h"

template <class T>
struct Problem {
    int64_t batch, heads, dim, height, width, radius, strides[3];
    const T *q, *k, *v, *rel, *mask;
    bool before;  // the mask scales what the softmax is taken over, instead of its weights

    Problem(const int64_t* sizes, const void* const* maps)
        : batch(sizes[0]), heads(sizes[1]), dim(sizes[2]), height(sizes[3]), width(sizes[4]), radius(sizes[5]),
          strides{sizes[6], sizes[7], sizes[8]}, q((const T*)maps[0]), k((const T*)maps[1]), v((const T*)maps[2]),
          rel((const T*)maps[3]), mask((const T*)maps[4]), before(mask && sizes[9]) {}

    int64_t side() const { return 2 * radius + 1; }
    int64_t strips() const { return (width + LANES<T> - 1) / LANES<T>; }
    int64_t row() const { return (strips() + 1) * LANES<T> + 2 * radius; }
    int64_t ring(int64_t dy, int64_t dx) const { return std::max(std::abs(dy - radius), std::abs(dx - radius)); }
    const T* plane(const T* map, int64_t stride, int64_t image, int64_t head) const {
        return map + image * stride + head * dim * height * width;
    }
    T weight(int64_t head, int64_t dy, int64_t dx) const {
        return mask ? mask[head * (radius + 1) + ring(dy, dx)] : T(1);
    }
    // The last ring of a head with any weight.
    int64_t reach(int64_t head) const {
        int64_t last = radius;
        while (mask && last > 0 && mask[head * (radius + 1) + last] == T(0)) --last;
        return last;
    }
    const T* tables(int64_t head) const { return rel + head * 2 * side() * dim; }
};

// <q, e> of one strip of queries for the K row offsets, then the K column offsets.
template <class T>
static void position_logits(const Problem<T>& p, int64_t head, const T* q, T* out, int64_t step) {
    const T* rel = p.tables(head);
    for (int64_t j = 0; j < 2 * p.side(); ++j) {
        Vec<T> sum = fill<T>(0);
        for (int64_t d = 0; d < p.dim; ++d) sum += load(q + d * p.row()) * rel[j * p.dim + d];
        store(out + j * step, sum);
    }
}

template <class T>
static void forward_strip(const Problem<T>& p, int64_t image, int64_t head, int64_t y, int64_t x, const T* q,
                          const T* k, const T* v, T* logits, T* positions, T* attended, T* out, T* stats) {
    const int64_t K = p.side(), L = p.radius, V = LANES<T>, reach = p.reach(head), from = L - reach;
    const int64_t area = p.height * p.width, count = std::min<int64_t>(V, p.width - x), plane = p.height * p.row();
    const int64_t first = p.before ? from : 0, last = K - first;  // rows and columns that the softmax is taken over
    position_logits(p, head, q + L + x, positions, V);
    Vec<T> top = fill<T>(-std::numeric_limits<T>::infinity());
    for (int64_t dy = first; dy < last; ++dy) {
        const int64_t row = y + dy - L;
        T* at = logits + (dy * K + first) * V;
        const bool inside = row >= 0 && row < p.height;
        if (inside) dots(at, q + L + x, p.row(), k + row * p.row() + x + first, plane, p.dim, last - first);
        for (int64_t dx = first; dx < last; ++dx, at += V) {
            Vec<T> logit = load(positions + dy * V) + load(positions + (K + dx) * V);
            if (inside) logit += load(at);
            store(at, logit);
            top = top > logit ? top : logit;
        }
    }
    Vec<T> all = fill<T>(0), kept = fill<T>(0);
    for (int64_t dy = first; dy < last; ++dy)
        for (int64_t dx = first; dx < last; ++dx) {
            T* at = logits + (dy * K + dx) * V;
            const Vec<T> e = exponential<T>(load(at) - top), masked = e * p.weight(head, dy, dx);
            all += e;
            kept += masked;
            store(at, masked);
        }
    if (p.before) all = kept;
    const Vec<T> total = p.mask && !p.before ? kept / all + T(MASK_EPS) : fill<T>(1), scale = T(1) / (all * total);
    std::fill(attended, attended + p.dim * V, T(0));
    for (int64_t dy = from; dy <= L + reach; ++dy) {
        const int64_t row = y + dy - L;
        if (row < 0 || row >= p.height) continue;
        accumulate(attended, V, logits + (dy * K + from) * V, V, v + row * p.row() + x + from, 1, plane, p.dim,
                   2 * reach + 1);
    }
    T* to = out + ((image * p.heads + head) * p.dim) * area + y * p.width + x;
    for (int64_t d = 0; d < p.dim; ++d) store_some(to + d * area, load(attended + d * V) * scale, count);
    if (!stats) return;
    T* kept_at = stats + (image * p.heads + head) * 3 * area + y * p.width + x;
    store_some(kept_at, top, count);
    store_some(kept_at + area, T(1) / all, count);
    store_some(kept_at + 2 * area, total, count);
}

template <class T>
static void forward(const int64_t* sizes, const void* const* maps, void* const* results, int64_t threads) {
    const Problem<T> p(sizes, maps);
    const int64_t pairs = p.batch * p.heads, plane = p.height * p.row();
    const int64_t parts = pairs >= 4 * threads ? 1 : std::min<int64_t>(p.height, 4 * threads);
    in_parallel(pairs * parts, threads, [&](int64_t task) {
        const int64_t pair = task / parts, part = task % parts, image = pair / p.heads, head = pair % p.heads;
        const int64_t first = part * p.height / parts, last = (part + 1) * p.height / parts;
        std::vector<T> k(p.dim * plane), v(p.dim * plane), q(p.dim * p.row());
        std::vector<T> logits(p.side() * p.side() * LANES<T>), positions(2 * p.side() * LANES<T>);
        std::vector<T> attended(p.dim * LANES<T>);
        const int64_t lines = p.dim * p.height;
        copy_rows(p.plane(p.k, p.strides[1], image, head), p.width, k.data() + p.radius, p.row(), lines, p.width);
        copy_rows(p.plane(p.v, p.strides[2], image, head), p.width, v.data() + p.radius, p.row(), lines, p.width);
        for (int64_t y = first; y < last; ++y) {
            const T* from = p.plane(p.q, p.strides[0], image, head) + y * p.width;
            copy_rows(from, p.height * p.width, q.data() + p.radius, p.row(), p.dim, p.width);
            for (int64_t x = 0; x < p.width; x += LANES<T>)
                forward_strip(p, image, head, y, x, q.data(), k.data(), v.data(), logits.data(), positions.data(),
                              attended.data(), (T*)results[0], (T*)results[1]);
        }
    });
}

#include "attention_kernel_backward.h"

extern "C" {
int spatialsweep_forward_f32(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { forward<float>(s, m, r, n); });
}
int spatialsweep_forward_f64(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { forward<double>(s, m, r, n); });
}
int spatialsweep_backward_f32(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { backward<float>(s, m, r, n); });
}
int spatialsweep_backward_f64(const int64_t* s, const void* const* m, void* const* r, int64_t n) {
    return guarded([&] { backward<double>(s, m, r, n); });
}
// Runs all four on two rows of two pixels of one image, one head and one channel, with a window of 3.
int spatialsweep_probe() {
    const auto pass = [](auto zero) {
        using T = decltype(zero);
        T map[4] = {}, tables[6] = {}, mask[2] = {1, 1}, out[4], stats[12], grads[3][4], of_tables[6], of_mask[2];
        const int64_t sizes[] = {1, 1, 1, 2, 2, 1, 4, 4, 4, 0};
        const void* maps[] = {map, map, map, tables, mask, out, map, stats};
        void* results[] = {out, stats};
        void* gradients[] = {grads[0], grads[1], grads[2], of_tables, of_mask};
        forward<T>(sizes, maps, results, 1);
        backward<T>(sizes, maps, gradients, 1);
    };
    return guarded([&] {
        pass(0.0f);
        pass(0.0);
    });
}
}
