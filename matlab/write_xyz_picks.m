function write_xyz_picks(file, names, points, out_folder, probes)
% WRITE_XYZ_PICKS  Picks of traced probes for IBL's alignment tool; shared by the converters of this folder.
%
%   write_xyz_picks(file, names, points, out_folder, probes)
%
%   file        name of the tracing, for messages
%   names       cell of the tracks' names, '' where a track has none
%   points      cell of n x 3 arrays: AP, DV, ML in micrometres from the corner of the Allen CCF
%   out_folder  folder for xyz_picks.json, or <probe>/xyz_picks.json
%   probes      n x 2 cell: which probe a track (number or name) is, as {'probe00', 1; 'probe01_shank2',
%               'left'}; shanks count from 1. Empty where there is one track only.
%
%   The picks are the ends of the straight line through the deepest traced point, the tip, that fits the
%   others best; surface first, in micrometres from bregma: ML (right +), AP (anterior +), DV (up +). They are
%   those of "powerpixels histology". Nothing is written where any track can't be, or over what is there.

  if isempty(probes)
    filled = find(~cellfun('isempty', points));
    if numel(filled) ~= 1
      error('powerpixels:histology', ...
        '%s: expected one track, found %d; say which is which, as {''probe00'', 1; ''probe01'', 2}; %s', ...
        file, numel(filled), listing(names, points));
    end
    probes = {'', filled};
  end
  if ~iscell(probes) || size(probes, 2) ~= 2
    error('powerpixels:histology', 'expected probes as {''probe00'', 1; ''probe01'', 2}');
  end

  n = size(probes, 1);
  paths = cell(n, 1);
  picks = cell(n, 1);
  for k = 1:n
    track = chosen(file, names, points, probes{k, 2});
    paths{k} = path_of(out_folder, probes{k, 1});
    if exist(paths{k}, 'file')
      error('powerpixels:histology', '%s: it is there already; give another folder', paths{k});
    end
    if any(strcmp(paths{k}, paths(1:k - 1)))
      error('powerpixels:histology', '%s is given twice; give each probe or shank one track', probes{k, 1});
    end
    picks{k} = fit_line(file, track, points{track});
  end

  for k = 1:n
    make_folder(fileparts(paths{k}));
    id = fopen(paths{k}, 'w');
    if id < 0
      error('powerpixels:histology', '%s: it can''t be written', paths{k});
    end
    fprintf(id, '{"xyz_picks": [[%.1f, %.1f, %.1f], [%.1f, %.1f, %.1f]]}\n', picks{k}');
    fclose(id);
    fprintf('%s\n', paths{k});
  end
end

function track = chosen(file, names, points, wanted)
% Number of the track of a number or name.
  if ischar(wanted)
    track = find(strcmp(wanted, names));
    said = wanted;
  else
    track = wanted(wanted == round(wanted) & wanted >= 1 & wanted <= numel(points));
    said = sprintf('%g', wanted);
  end
  if numel(track) ~= 1
    error('powerpixels:histology', '%s: expected one track %s, found %d; %s', ...
      file, said, numel(track), listing(names, points));
  end
end

function path = path_of(out_folder, place)
% File of probe00, probe00_shank1 or shank1; of '' that of the only track.
  shank = regexp(place, 'shank(\d+)$', 'tokens', 'once');
  name = 'xyz_picks.json';
  probe = place;
  if ~isempty(shank)
    number = str2double(shank{1});
    if number < 1
      error('powerpixels:histology', '%s: expected shanks counted from 1, as the alignment tool does', place);
    end
    name = sprintf('xyz_picks_shank%d.json', number);
    probe = regexprep(place, '[ _-]*shank\d+$', '');
  end
  if isempty(probe)
    path = fullfile(out_folder, name);
  else
    path = fullfile(out_folder, probe, name);
  end
end

function picks = fit_line(file, track, ccf)
% Surface and tip (2 x 3), micrometres from bregma, of n x 3 AP, DV, ML in the Allen CCF.
  ccf = double(ccf);
  if ~isempty(ccf)
    ccf = ccf(all(isfinite(ccf), 2), :);
  end
  if isempty(ccf) || size(unique(ccf, 'rows'), 1) < 2
    error('powerpixels:histology', ...
      '%s: track %d: expected a traced probe, found fewer than two different points; trace it again', ...
      file, track);
  end
  if any(any(ccf < 0)) || any(ccf(:, 1) > 13200) || any(ccf(:, 2) > 8000) || any(ccf(:, 3) > 11400)
    error('powerpixels:histology', ...
      '%s: track %d: expected points within the Allen CCF; check the atlas of the tracing', file, track);
  end
  % Bregma as IBL has it: AP 5400, DV 332, ML 5739.
  xyz = [ccf(:, 3) - 5739, 5400 - ccf(:, 1), 332 - ccf(:, 2)];
  n = size(xyz, 1);

  up = upward_axis(xyz - repmat(mean(xyz, 1), n, 1));
  deepest = xyz(xyz(:, 3) <= min(xyz(:, 3)) + 1e-6, :);
  [~, k] = min(deepest * up');
  tip = deepest(k, :);

  away = xyz - repmat(tip, n, 1);
  up = upward_axis(away);
  along = away * up';
  [~, k] = max(abs(along));
  picks = [tip + along(k) * up; tip];
end

function axis = upward_axis(away)
% Direction (1 x 3) of the line through the origin nearest to points, with DV not falling.
  [~, ~, directions] = svd(away, 0);
  axis = directions(:, 1)';
  if axis(3) < 0
    axis = -axis;
  end
end

function text = listing(names, points)
% The tracks there are.
  text = 'tracks:';
  for k = 1:numel(points)
    text = sprintf('%s %d %s (%d points);', text, k, names{k}, size(points{k}, 1));
  end
end

function make_folder(folder)
% Make a folder and those above it.
  if isempty(folder) || exist(folder, 'dir')
    return
  end
  make_folder(fileparts(folder));
  mkdir(folder);
end
