// The backward pass of the attention kernel: one image and head per task, row of queries by row of queries.

#pragma once

// Keys without weight get a gradient through the epsilon of the mask alone, relative to the others at most the epsilon
// over what the mask keeps. In float it is computed for rows with a query that keeps less than this; above, it is below
// 1e-5 of the gradient of its query.
template <class T>
constexpr T SMALL_TOTAL = T(0.001);
template <>
constexpr double SMALL_TOTAL<double> = std::numeric_limits<double>::infinity();

template <class T>
struct Backward {
    const Problem<T>& p;
    const int64_t image, head, K, L, V, row, plane, area;
    std::vector<T> k, v, grad_k, grad_v;            // (D, H, row), columns from L
    std::vector<T> q, grad, attended;               // (D, row) of one row of queries, columns from L
    std::vector<T> grad_q;                          // (D, row), columns from 0
    std::vector<T> top, inverse, total, along;      // (row) of one row of queries, columns from 0
    std::vector<T> positions, grad_positions;       // (2 K, row), columns from 0
    std::vector<T> grad_logits, weights;            // (K, row) of one row of keys, at the columns of the keys
    std::vector<T> logits, products;                // (K, V) of one strip
    std::vector<T> grad_rel, grad_mask;             // (2 K, D, V), (L + 1, V)

    Backward(const Problem<T>& problem, int64_t image_, int64_t head_)
        : p(problem), image(image_), head(head_), K(p.side()), L(p.radius), V(LANES<T>), row(p.row()),
          plane(p.height * p.row()), area(p.height * p.width), k(p.dim * plane), v(p.dim * plane),
          grad_k(p.dim * plane), grad_v(p.dim * plane), q(p.dim * row), grad(p.dim * row), attended(p.dim * row),
          grad_q(p.dim * row), top(row), inverse(row), total(row, T(1)), along(row), positions(2 * K * row),
          grad_positions(2 * K * row), grad_logits(K * row), weights(K * row), logits(K * V), products(K * V),
          grad_rel(2 * K * p.dim * V), grad_mask((L + 1) * V) {}

    // The products of one row of queries with the row of keys at offset dy: logits, and their gradients.
    void one_strip(int64_t dy, int64_t key_row, int64_t x, int64_t reach) {
        const int64_t from = L - reach, count = 2 * reach + 1;
        const bool inside = key_row >= 0 && key_row < p.height;
        if (inside) {
            const int64_t at = key_row * row + x + from;
            dots(logits.data(), &q[L + x], row, &k[at], plane, p.dim, count);
            dots(products.data(), &grad[L + x], row, &v[at], plane, p.dim, count);
        }
        const Vec<T> highest = load(&top[x]), share = load(&inverse[x]), scale = T(1) / load(&total[x]);
        const Vec<T> mean = load(&along[x]), lost = p.mask && !p.before ? mean * scale * T(MASK_EPS) : fill<T>(0);
        const Vec<T> by_row = load(&positions[dy * row + x]);
        Vec<T> sum = fill<T>(0);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t dx = from + j, ring = p.ring(dy, dx);
            Vec<T> logit = by_row + load(&positions[(K + dx) * row + x]), product = fill<T>(0);
            if (inside) {
                logit += load(&logits[j * V]);
                product = load(&products[j * V]);
            }
            const Vec<T> weight = exponential<T>(logit - highest) * share, m = fill<T>(p.weight(head, dy, dx));
            const Vec<T> by_mask = (product - mean) * weight * scale, by_logit = by_mask * m - weight * lost;
            store(&grad_mask[ring * V], load(&grad_mask[ring * V]) + by_mask);
            store(&grad_logits[dx * row + x + dx], by_logit);
            store(&weights[dx * row + x + dx], weight * m * scale);
            T* column = &grad_positions[(K + dx) * row + x];
            store(column, load(column) + by_logit);
            sum += by_logit;
        }
        store(&grad_positions[dy * row + x], sum);
    }

    // Adds the effect of those gradients on one row of queries and one row of keys.
    void spread(int64_t key_row, int64_t reach) {
        const int64_t from = L - reach, count = 2 * reach + 1, at = key_row * row;
        for (int64_t x = 0; x < p.width; x += V) {
            accumulate(&grad_q[x], row, &grad_logits[from * row + x + from], row + 1, &k[at + x + from], 1, plane, p.dim,
                       count);
            const int64_t key = L + x, first = from * row + key, query = L + key - from;
            accumulate(&grad_k[at + key], plane, &grad_logits[first], row, &q[query], -1, row, p.dim, count);
            accumulate(&grad_v[at + key], plane, &weights[first], row, &grad[query], -1, row, p.dim, count);
        }
    }

    void read_row(const T* out, const T* grad_out, const T* stats, int64_t y) {
        const int64_t at = (image * p.heads + head) * p.dim * area + y * p.width;
        copy_rows(p.plane(p.q, p.strides[0], image, head) + y * p.width, area, &q[L], row, p.dim, p.width);
        copy_rows(grad_out + at, area, &grad[L], row, p.dim, p.width);
        copy_rows(out + at, area, &attended[L], row, p.dim, p.width);
        const T* kept = stats + (image * p.heads + head) * 3 * area + y * p.width;
        std::copy(kept, kept + p.width, top.begin());
        std::copy(kept + area, kept + area + p.width, inverse.begin());
        std::copy(kept + 2 * area, kept + 2 * area + p.width, total.begin());
        std::fill(grad_q.begin(), grad_q.end(), T(0));
        std::fill(grad_positions.begin(), grad_positions.end(), T(0));
        for (int64_t x = 0; x < p.width; x += V) {
            Vec<T> sum = fill<T>(0);
            for (int64_t d = 0; d < p.dim; ++d) sum += load(&grad[d * row + L + x]) * load(&attended[d * row + L + x]);
            store(&along[x], sum);
            position_logits(p, head, &q[L + x], &positions[x], row);
        }
    }

    // The part of the position tables: in the gradient of the queries, and in their own.
    void spread_positions() {
        const T* rel = p.tables(head);
        for (int64_t j = 0; j < 2 * K; ++j)
            for (int64_t d = 0; d < p.dim; ++d) {
                Vec<T> sum = load(&grad_rel[(j * p.dim + d) * V]);
                const T entry = rel[j * p.dim + d];
                for (int64_t x = 0; x < p.width; x += V) {
                    const Vec<T> one = load(&grad_positions[j * row + x]);
                    store(&grad_q[d * row + x], load(&grad_q[d * row + x]) + one * entry);
                    sum += one * load(&q[d * row + L + x]);
                }
                store(&grad_rel[(j * p.dim + d) * V], sum);
            }
    }

    void run(const T* out, const T* grad_out, const T* stats, T* to_q) {
        const int64_t lines = p.dim * p.height, reach = p.reach(head);
        copy_rows(p.plane(p.k, p.strides[1], image, head), p.width, &k[L], row, lines, p.width);
        copy_rows(p.plane(p.v, p.strides[2], image, head), p.width, &v[L], row, lines, p.width);
        for (int64_t y = 0; y < p.height; ++y) {
            read_row(out, grad_out, stats, y);
            const bool small = *std::min_element(total.begin(), total.begin() + p.width) < SMALL_TOTAL<T>;
            const int64_t inner = small && !p.before ? L : reach;
            // after the softmax, a weight of zero may have a gradient: the end of the ramp
            const int64_t outer = p.before ? reach : std::min(L, inner + 1);
            for (int64_t dy = L - outer; dy <= L + outer; ++dy) {
                const int64_t key_row = y + dy - L;
                for (int64_t x = 0; x < p.width; x += V) one_strip(dy, key_row, x, outer);
                if (std::abs(dy - L) <= inner && key_row >= 0 && key_row < p.height) spread(key_row, inner);
            }
            spread_positions();
            copy_rows(grad_q.data(), row, to_q + y * p.width, area, p.dim, p.width);
        }
    }
};

template <class T>
static void sum_lanes(const std::vector<T>& lanes, T* to) {
    for (size_t i = 0; i < lanes.size(); i += LANES<T>) {
        T sum = 0;
        for (int64_t j = 0; j < LANES<T>; ++j) sum += lanes[i + j];
        *to++ = sum;
    }
}

// maps: q, k, v, rel, mask, out, grad of out, stats; results: gradients of q, k, v, and per image of rel and mask.
template <class T>
static void backward(const int64_t* sizes, const void* const* maps, void* const* results, int64_t threads) {
    const Problem<T> p(sizes, maps);
    in_parallel(p.batch * p.heads, threads, [&](int64_t task) {
        Backward<T> one(p, task / p.heads, task % p.heads);
        const int64_t map = task * p.dim * one.area, lines = p.dim * p.height;
        one.run((const T*)maps[5], (const T*)maps[6], (const T*)maps[7], (T*)results[0] + map);
        copy_rows(&one.grad_k[p.radius], one.row, (T*)results[1] + map, p.width, lines, p.width);
        copy_rows(&one.grad_v[p.radius], one.row, (T*)results[2] + map, p.width, lines, p.width);
        sum_lanes(one.grad_rel, (T*)results[3] + task * 2 * one.K * p.dim);
        if (p.mask) sum_lanes(one.grad_mask, (T*)results[4] + task * (p.radius + 1));
    });
}
